#include "slidesparse/format/slide.h"

#include <bit>

#include "format/format_oracle.h"

namespace slidesparse {
namespace {

using ::testing::HasSubstr;
using namespace slidesparse::testing;

unsigned index_of_slot(const std::uint8_t* metadata, std::int64_t slot) {
  return metadata[slot / 4] >> (2 * (slot % 4)) & 3u;
}

Bytes metadata_of(const Packed& packed, Pattern pattern, DType dtype, std::int64_t rows, std::int64_t k) {
  Bytes metadata(static_cast<std::size_t>(rows * slide_metadata_bytes_per_row(pattern, k)), 0xa5);
  slide_metadata(packed.view(pattern, dtype, rows, k), metadata.data());
  return metadata;
}

// W'.lift(x) == W.x in integers, the metadata is what 2:4 hardware takes, and it leads back to the codes.
void check_slide(Pattern pattern, const Bytes& dense, std::int64_t rows, std::int64_t k, Random& random) {
  SCOPED_TRACE(fmt::format("{} k={}", pattern.to_string(), k));
  const std::int64_t lifted = pattern.lifted_k(k);
  const Packed packed = pack(pattern, DType::kI8, dense, rows, k);
  Bytes metadata;
  if (!pattern.is_dense()) {
    metadata = metadata_of(packed, pattern, DType::kI8, rows, k);
    const std::int64_t row_bytes = slide_metadata_bytes_per_row(pattern, k);
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t slot = 0; slot < pattern.values_per_row(k); slot += 2) {
        ASSERT_LT(index_of_slot(metadata.data() + row * row_bytes, slot),
                  index_of_slot(metadata.data() + row * row_bytes, slot + 1));
      }
    }
    Bytes codes(packed.codes.size(), 0xa5);
    codes_from_metadata(pattern, rows, k, metadata.data(), codes.data());
    ASSERT_EQ(codes, packed.codes);
  }
  Bytes slid(static_cast<std::size_t>(rows * lifted), 0xa5);
  expand_slid(pattern, DType::kI8, rows, k, packed.values.data(), metadata.data(), slid.data());

  constexpr std::int64_t kTokens = 2;
  const std::int64_t ldx = k + 5;
  std::vector<std::int8_t> x(static_cast<std::size_t>(kTokens * ldx), 99);
  for (std::int8_t& value : x) value = static_cast<std::int8_t>(random.bits());
  std::vector<std::int8_t> lifted_x(static_cast<std::size_t>(kTokens * lifted), 99);
  lift_rows(pattern, DType::kI8, x.data(), kTokens, k, ldx, lifted_x.data());
  for (std::int64_t token = 0; token < kTokens; ++token) {
    for (std::int64_t row = 0; row < rows; ++row) {
      std::int64_t direct = 0;
      for (std::int64_t i = 0; i < k; ++i) {
        direct += static_cast<std::int8_t>(dense[static_cast<std::size_t>(row * k + i)]) *
                  x[static_cast<std::size_t>(token * ldx + i)];
      }
      std::int64_t slided = 0;
      for (std::int64_t o = 0; o < lifted; ++o) {
        slided += static_cast<std::int8_t>(slid[static_cast<std::size_t>(row * lifted + o)]) *
                  lifted_x[static_cast<std::size_t>(token * lifted + o)];
      }
      ASSERT_EQ(slided, direct) << "row " << row << ", token " << token;
    }
  }
}

TEST(Slide, EveryMaskUpToEightLanes) {
  Random random(31);
  for (const Pattern pattern :
       {Pattern::of_half_group(2), Pattern::of_half_group(3), Pattern::of_half_group(4)}) {
    // One mask a row: a wrong lane cannot hide behind another group.
    std::vector<unsigned> masks;
    for (unsigned mask = 0; mask < 1u << pattern.group(); ++mask) {
      if (std::popcount(mask) <= pattern.kept()) masks.push_back(mask);
    }
    const auto rows = static_cast<std::int64_t>(masks.size());
    const std::int64_t k = pattern.group();
    Bytes dense(static_cast<std::size_t>(rows * k));
    for (std::int64_t i = 0; i < rows * k; ++i) {
      if (masks[static_cast<std::size_t>(i / k)] >> i % k & 1u) {
        dense[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(1 + random.below(255));
      }
    }
    check_slide(pattern, dense, rows, k, random);
  }
}

TEST(Slide, RandomMasksAtAwkwardLengths) {
  Random random(32);
  for (const Pattern pattern : all_patterns()) {
    for (const std::int64_t k : awkward_lengths()) {
      check_slide(pattern, random_matrix(random, pattern, DType::kI8, 4, k), 4, k, random);
    }
    for (int round = 0; round < 100; ++round) {
      check_slide(pattern, random_matrix(random, pattern, DType::kI8, 8, 3 * pattern.group()), 8,
                  3 * pattern.group(), random);
    }
  }
}

// The index of slot i of a group is s_i - 2 floor(i / 2), for every code of every pattern.
TEST(Slide, IndicesOfEveryCode) {
  for (const Pattern pattern : sparse_patterns()) {
    const std::int64_t k = static_cast<std::int64_t>(code_count(pattern)) * pattern.group();
    Bytes dense(static_cast<std::size_t>(k));
    for (std::int64_t i = 0; i < k; ++i) {
      dense[static_cast<std::size_t>(i)] =
          kept_mask(pattern, static_cast<int>(i / pattern.group())) >> i % pattern.group() & 1u;
    }
    const Bytes metadata = metadata_of(pack(pattern, DType::kI8, dense, 1, k), pattern, DType::kI8, 1, k);
    std::int64_t slot = 0;
    for (std::int64_t i = 0; i < k; ++i) {
      if (dense[static_cast<std::size_t>(i)] == 0) continue;
      const std::int64_t lane = i % pattern.group();
      const std::int64_t in_group = slot % pattern.kept();
      EXPECT_EQ(index_of_slot(metadata.data(), slot), lane - 2 * (in_group / 2));
      EXPECT_GE(lane, in_group);
      EXPECT_LE(lane, in_group + 2);
      ++slot;
    }
    EXPECT_EQ(slot, pattern.values_per_row(k));
  }
}

// Of all possible metadata of one group exactly code_count() are accepted, and each gives its own code.
TEST(Slide, RefusesMetadataThatNoMaskMakes) {
  for (const Pattern pattern :
       {Pattern::of_half_group(2), Pattern::of_half_group(3), Pattern::of_half_group(4)}) {
    std::vector<bool> seen(static_cast<std::size_t>(code_count(pattern)));
    for (unsigned bits = 0; bits < 1u << (2 * pattern.kept()); ++bits) {
      const std::uint8_t metadata[] = {static_cast<std::uint8_t>(bits), static_cast<std::uint8_t>(bits >> 8)};
      std::uint8_t code = 0;
      try {
        codes_from_metadata(pattern, 1, pattern.group(), metadata, &code);
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), HasSubstr("row 0, group 0"));
        continue;
      }
      ASSERT_LT(code, code_count(pattern));
      EXPECT_FALSE(seen[code]);
      seen[code] = true;
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), true), code_count(pattern));
  }
  // The second row's second group.
  const Pattern pattern = Pattern::parse("6:8");
  Bytes metadata = metadata_of(pack(pattern, DType::kI8, Bytes(32), 2, 16), pattern, DType::kI8, 2, 16);
  metadata[5] = 0;  // three bytes a row; both windows' slots at index 0
  Bytes out(256);
  EXPECT_THAT(refusal([&] { codes_from_metadata(pattern, 2, 16, metadata.data(), out.data()); }),
              HasSubstr("row 1, group 1"));
  EXPECT_THAT(
      refusal([&] { expand_slid(pattern, DType::kI8, 2, 16, out.data(), metadata.data(), out.data() + 64); }),
      HasSubstr("row 1, group 1"));
}

TEST(Slide, RefusesBadCodesAndDense) {
  Bytes out(64);
  const Bytes codes{31};
  const Bytes values(6);
  EXPECT_THAT(
      refusal([&] {
        slide_metadata({Pattern::parse("6:8"), DType::kI8, 1, 8, values.data(), codes.data()}, out.data());
      }),
      HasSubstr("row 0, group 0: code 31"));
  EXPECT_THAT(refusal([&] {
                slide_metadata({Pattern(), DType::kI8, 1, 6, values.data(), nullptr}, out.data());
              }),
              HasSubstr("dense"));
  EXPECT_THAT(refusal([&] { codes_from_metadata(Pattern(), 1, 6, values.data(), out.data()); }),
              HasSubstr("dense"));
  EXPECT_THAT(
      refusal([&] { lift_rows(Pattern::parse("2:4"), DType::kI64, out.data(), 1, 4, 4, out.data() + 32); }),
      HasSubstr("I64"));
}

TEST(Slide, LiftSource) {
  for (const Pattern pattern : all_patterns()) {
    std::int64_t o = 0;
    for (std::int64_t group = 0; group < 5; ++group) {
      if (pattern.is_dense()) {
        EXPECT_EQ(lift_source(pattern, group), group);
        continue;
      }
      for (std::int64_t window = 0; window + 1 < pattern.half_group(); ++window) {
        for (std::int64_t lane = 0; lane < 4; ++lane) {
          EXPECT_EQ(lift_source(pattern, o++), group * pattern.group() + 2 * window + lane);
        }
      }
    }
  }
}

template <typename T>
void check_lift(DType dtype) {
  Random random(33);
  for (const Pattern pattern : all_patterns()) {
    for (const std::int64_t k : {1, 7, 8, 9, 30, 576}) {
      std::vector<T> x(static_cast<std::size_t>(3 * (k + 2)));
      for (T& value : x) value = static_cast<T>(random.bits() | 1);
      const std::int64_t lifted = pattern.lifted_k(k);
      std::vector<T> out(static_cast<std::size_t>(3 * lifted + 1), T{0x5a});
      lift_rows(pattern, dtype, x.data(), 3, k, k + 2, out.data());
      for (std::int64_t i = 0; i < 3 * lifted; ++i) {
        const std::int64_t source = lift_source(pattern, i % lifted);
        ASSERT_EQ(out[static_cast<std::size_t>(i)],
                  source < k ? x[static_cast<std::size_t>(i / lifted * (k + 2) + source)] : T{0});
      }
      EXPECT_EQ(out.back(), T{0x5a});
    }
  }
}

TEST(Slide, LiftsElementsOfOneTwoAndFourBytes) {
  check_lift<std::uint8_t>(DType::kF8E4M3);
  check_lift<std::uint16_t>(DType::kBF16);
  check_lift<std::uint32_t>(DType::kF32);
}

TEST(Slide, TwoByteElementsExpandToTheSameLanes) {
  Random random(34);
  for (const Pattern pattern : all_patterns()) {
    const std::int64_t k = 83;
    const Bytes dense = random_matrix(random, pattern, DType::kBF16, 3, k, 2);
    const Packed packed = pack(pattern, DType::kBF16, dense, 3, k);
    const Bytes metadata = pattern.is_dense() ? Bytes() : metadata_of(packed, pattern, DType::kBF16, 3, k);
    const std::int64_t lifted = pattern.lifted_k(k);
    Bytes slid(static_cast<std::size_t>(3 * lifted * 2), 0xa5);
    expand_slid(pattern, DType::kBF16, 3, k, packed.values.data(), metadata.data(), slid.data());
    // Every channel's copies in the slid row hold its value once and zeros otherwise.
    for (std::int64_t row = 0; row < 3; ++row) {
      std::vector<unsigned> sum(static_cast<std::size_t>(k));
      for (std::int64_t o = 0; o < lifted; ++o) {
        const std::int64_t source = lift_source(pattern, o);
        const unsigned value = element(slid.data(), DType::kBF16, row * lifted + o);
        if (source >= k) {
          EXPECT_EQ(value, 0u);
        } else if (!is_zero(DType::kBF16, value)) {
          EXPECT_EQ(sum[static_cast<std::size_t>(source)], 0u);
          sum[static_cast<std::size_t>(source)] = value;
        }
      }
      for (std::int64_t i = 0; i < k; ++i) {
        const unsigned value = element(dense.data(), DType::kBF16, row * k + i);
        EXPECT_EQ(sum[static_cast<std::size_t>(i)], is_zero(DType::kBF16, value) ? 0u : value);
      }
    }
  }
}

// 2:4 metadata form: .625, .833, .9375 and 1.00 bytes a weight at 8 bits.
TEST(Slide, BytesPerWeight) {
  const double expected[] = {0.625, 5.0 / 6, 0.9375, 1.0};
  for (int n = 2; n <= 5; ++n) {
    const Pattern pattern = Pattern::of_half_group(n);
    const std::int64_t k = pattern.group() * 80;
    const Packed packed = pack(pattern, DType::kI8, Bytes(static_cast<std::size_t>(k)), 1, k);
    const Bytes metadata = metadata_of(packed, pattern, DType::kI8, 1, k);
    EXPECT_DOUBLE_EQ(static_cast<double>(packed.values.size() + metadata.size()) / static_cast<double>(k),
                     expected[n - 2]);
  }
}

}  // namespace
}  // namespace slidesparse
