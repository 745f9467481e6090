#include "format/format_oracle.h"
#include "slidesparse/format/pack.h"

namespace slidesparse {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using namespace slidesparse::testing;

class PackRefusal : public EveryIsa {};

// One crowded group anywhere is found and named, by pack as by find_violation.
TEST_P(PackRefusal, CrowdedGroups) {
  Random random(21);
  for (const Pattern pattern : sparse_patterns()) {
    for (const DType dtype : packable_dtypes()) {
      for (int round = 0; round < 20; ++round) {
        constexpr std::int64_t kRows = 3;
        const std::int64_t k = 1 + random.below(700) + pattern.group();
        Bytes dense = random_matrix(random, pattern, dtype, kRows, k, 2);
        const std::int64_t row = random.below(kRows);
        const std::int64_t group = random.below(k / pattern.group());
        const int spared =
            static_cast<int>(random.below(pattern.group() + 1));  // this lane stays a zero; none if = group
        std::string lanes;
        for (int lane = 0; lane < pattern.group(); ++lane) {
          set_element(dense.data(), dtype, row * k + group * pattern.group() + lane,
                      lane == spared ? (is_float(dtype) ? negative_zero(dtype) : 0u) : 0x11u);
          if (lane != spared) lanes += fmt::format("{}{}", lanes.empty() ? "" : ",", lane);
        }
        const auto violation = find_violation(pattern, dtype, dense.data(), kRows, k, k);
        ASSERT_TRUE(violation.has_value());
        EXPECT_EQ(violation->row, row);
        EXPECT_EQ(violation->group, group);
        EXPECT_EQ(violation->non_zeros, pattern.group() - (spared < pattern.group()));
        EXPECT_EQ(violation->lanes, lanes);
        Bytes values(dense.size() + 256);
        Bytes codes(dense.size() + 256);
        EXPECT_THAT(
            refusal([&] {
              pack_rows(pattern, dtype, dense.data(), kRows, k, k, values.data(), codes.data(), 1000,
                        "a.weight");
            }),
            AllOf(HasSubstr(fmt::format("a.weight: row {}, group {} ", 1000 + row, group)),
                  HasSubstr(fmt::format("in lanes {};", lanes)),
                  HasSubstr(fmt::format("{} keeps at most {}", pattern.to_string(), pattern.kept()))));
      }
    }
  }
}

// A tail needs pruning only if its real lanes are too many.
TEST_P(PackRefusal, Tails) {
  const Bytes ones(16, 1);
  Bytes out(64);
  const Pattern pattern = Pattern::parse("6:8");
  for (std::int64_t k = 1; k <= 6; ++k) {
    EXPECT_EQ(pack_rows(pattern, DType::kI8, ones.data(), 1, k, k, out.data(), out.data() + 32).non_zeros, k);
  }
  EXPECT_THAT(
      refusal([&] { pack_rows(pattern, DType::kI8, ones.data(), 1, 7, 7, out.data(), out.data() + 32); }),
      AllOf(HasSubstr("row 0, group 0 (channels 0-6) has 7 non-zeros"), HasSubstr("lanes 0,1,2,3,4,5,6;")));
}

TEST_P(PackRefusal, CodesThatNameNoPair) {
  Random random(22);
  for (const Pattern pattern : sparse_patterns()) {
    const std::int64_t k = 37 * pattern.group();
    constexpr std::int64_t kRows = 3;
    for (int code = code_count(pattern); code < 1 << pattern.code_bits(); ++code) {
      Packed packed =
          pack(pattern, DType::kI8, random_matrix(random, pattern, DType::kI8, kRows, k), kRows, k);
      const std::int64_t row = random.below(kRows);
      const std::int64_t group = random.below(37);
      for (int bit = 0; bit < pattern.code_bits(); ++bit) {
        const std::int64_t at = group * pattern.code_bits() + bit;
        std::uint8_t& byte =
            packed.codes[static_cast<std::size_t>(row * pattern.code_bytes_per_row(k) + at / 8)];
        byte = static_cast<std::uint8_t>((byte & ~(1 << at % 8)) | (code >> bit & 1) << at % 8);
      }
      const PackedView view = packed.view(pattern, DType::kI8, kRows, k);
      const auto expected = HasSubstr(fmt::format("w: row {}, group {}: code {} names no mask of {}", row,
                                                  group, code, pattern.to_string()));
      Bytes out(static_cast<std::size_t>(kRows * k));
      EXPECT_THAT(refusal([&] { validate_packed(view, "w"); }), expected);
      EXPECT_THAT(refusal([&] { unpack_rows(view, 0, kRows, out.data(), k, "w"); }), expected);
      EXPECT_THAT(refusal([&] { unpack_rows(view, row, 1, out.data(), k, "w"); }), expected);
    }
  }
}

TEST_P(PackRefusal, BitsBehindTheLastCode) {
  const Pattern pattern = Pattern::parse("6:8");
  Packed packed = pack(pattern, DType::kI8, Bytes(24, 0), 1, 24);  // 15 bits in 2 bytes
  packed.codes[1] = static_cast<std::uint8_t>(packed.codes[1] | 0x80);
  EXPECT_THAT(refusal([&] { validate_packed(packed.view(pattern, DType::kI8, 1, 24), "w"); }),
              HasSubstr("w: row 0: bits behind the last code are set"));
}

TEST_P(PackRefusal, ValuesInThePadding) {
  for (const DType dtype : packable_dtypes()) {
    const Pattern pattern = Pattern::parse("6:8");
    constexpr std::int64_t kK = 11;  // the second group has lanes 0-2, and its slots 3-5 are padding
    Bytes dense = make_matrix(dtype, 2, kK);
    const Packed packed = pack(pattern, dtype, dense, 2, kK);
    for (int slot = 0; slot < 6; ++slot) {
      for (const unsigned value : {1u, dtype_size(dtype) == 1 ? 0x80u : 0x8000u}) {
        Packed damaged = packed;
        set_element(damaged.values.data(), dtype, 12 + 6 + slot, value);
        const PackedView view = damaged.view(pattern, dtype, 2, kK);
        Bytes out(dense.size());
        if (slot < 3) {
          EXPECT_NO_THROW(validate_packed(view, "w"));
          EXPECT_NO_THROW(unpack_rows(view, 0, 2, out.data(), kK, "w"));
          continue;
        }
        const auto expected =
            HasSubstr(fmt::format("w: row 1, group 1: lane {} lies behind the last of 11", slot));
        EXPECT_THAT(refusal([&] { validate_packed(view, "w"); }), expected);
        EXPECT_THAT(refusal([&] { unpack_rows(view, 0, 2, out.data(), kK, "w"); }), expected);
      }
    }
  }
}

TEST_P(PackRefusal, DTypes) {
  Bytes some(512);
  for (const Pattern pattern : {Pattern(), Pattern::parse("2:4")}) {
    for (const DType dtype :
         {DType::kF32, DType::kU8, DType::kI16, DType::kI64, DType::kF8E5M2, DType::kBool}) {
      const auto expected = HasSubstr(fmt::format("dtype {} cannot be packed", dtype_name(dtype)));
      const PackedView view{pattern, dtype, 1, 8, some.data(), some.data()};
      EXPECT_THAT(refusal([&] {
                    pack_rows(pattern, dtype, some.data(), 1, 8, 8, some.data() + 128, some.data() + 256);
                  }),
                  expected);
      EXPECT_THAT(refusal([&] { unpack_rows(view, 0, 1, some.data() + 128, 8); }), expected);
      EXPECT_THAT(refusal([&] { validate_packed(view); }), expected);
      EXPECT_THAT(refusal([&] { find_violation(pattern, dtype, some.data(), 1, 8, 8); }), expected);
    }
  }
}

TEST_P(PackRefusal, RowsThatAreNotThere) {
  Bytes some(512);
  const PackedView view{Pattern::parse("2:4"), DType::kI8, 4, 8, some.data(), some.data()};
  for (const auto& [begin, rows] : {std::pair<std::int64_t, std::int64_t>{0, 5}, {4, 1}, {-1, 1}, {2, -1}}) {
    EXPECT_THAT(refusal([&, b = begin, r = rows] { unpack_rows(view, b, r, some.data() + 128, 8); },
                        ErrorKind::kInternal),
                HasSubstr("rows"));
  }
}

// Random damage is either refused or unpacks to something that obeys the pattern: no lane is read twice or
// lost.
TEST_P(PackRefusal, RandomDamage) {
  Random random(23);
  int refused = 0;
  for (int round = 0; round < 2000; ++round) {
    const Pattern pattern = Pattern::of_half_group(2 + static_cast<int>(random.below(7)));
    const std::int64_t k = 1 + random.below(300);
    Packed packed = pack(pattern, DType::kI8, random_matrix(random, pattern, DType::kI8, 2, k), 2, k);
    Bytes& target = random.below(2) == 0 ? packed.codes : packed.values;
    const auto at = static_cast<std::size_t>(random.below(static_cast<std::int64_t>(target.size())));
    target[at] = static_cast<std::uint8_t>(random.bits());
    Bytes out(static_cast<std::size_t>(2 * k));
    try {
      unpack_rows(packed.view(pattern, DType::kI8, 2, k), 0, 2, out.data(), k);
      EXPECT_EQ(find_violation(pattern, DType::kI8, out.data(), 2, k, k), std::nullopt);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
      ++refused;
    }
  }
  EXPECT_GT(refused, 50);
}

INSTANTIATE_TEST_SUITE_P(Isa, PackRefusal, every_isa(), isa_test_name);

}  // namespace
}  // namespace slidesparse
