#include "slidesparse/format/split.h"

#include <numeric>

#include "format/format_oracle.h"

namespace slidesparse {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using namespace slidesparse::testing;

// A random choice and order of sparse channels, then the others ascending.
std::vector<std::int32_t> random_perm(Random& random, const SplitShape& shape) {
  std::vector<std::int32_t> perm(static_cast<std::size_t>(shape.k));
  std::iota(perm.begin(), perm.end(), 0);
  for (std::size_t i = perm.size(); i > 1; --i) {
    std::swap(perm[i - 1], perm[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(i)))]);
  }
  std::sort(perm.begin() + static_cast<std::ptrdiff_t>(shape.sparse), perm.end());
  return perm;
}

// Rows whose quads of sparse channels have at most two non-zeros and whose dense channels are mostly
// non-zero.
Bytes random_split_matrix(Random& random, const SplitShape& shape, const std::vector<std::int32_t>& perm,
                          DType dtype, std::int64_t rows, int negative_zeros = 0) {
  Bytes matrix = make_matrix(dtype, rows, shape.k);
  const Bytes sparse = random_matrix(random, Pattern::parse("2:4"), dtype, rows,
                                     std::max<std::int64_t>(shape.sparse, 1), negative_zeros);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t i = 0; i < shape.k; ++i) {
      const unsigned value = i < shape.sparse ? element(sparse.data(), dtype, row * shape.sparse + i)
                                              : static_cast<unsigned>(random.bits()) & 0xffu;
      set_element(matrix.data(), dtype, row * shape.k + perm[static_cast<std::size_t>(i)], value);
    }
  }
  return matrix;
}

struct SplitPacked {
  Bytes values;
  Bytes codes;
  PackReport report;
};

SplitPacked split_pack(const SplitShape& shape, const std::vector<std::int32_t>& perm, DType dtype,
                       const Bytes& dense, std::int64_t rows) {
  SplitPacked packed{Bytes(static_cast<std::size_t>(rows * shape.values_per_row()) * dtype_size(dtype), 0xa5),
                     Bytes(static_cast<std::size_t>(rows * shape.code_bytes_per_row()), 0xa5),
                     {}};
  packed.report = split_pack_rows(shape, perm, dtype, dense.data(), rows, shape.k, packed.values.data(),
                                  packed.codes.data());
  return packed;
}

class Split : public EveryIsa {};

TEST_P(Split, PackUnpackIsTheIdentity) {
  Random random(41);
  for (const Pattern pattern : all_patterns()) {
    for (const DType dtype : packable_dtypes()) {
      for (const std::int64_t k : {1, 63, 64, 127, 128, 200, 576, 1536, 3584}) {
        SCOPED_TRACE(fmt::format("{} k={}", pattern.to_string(), k));
        constexpr std::int64_t kRows = 3;
        const SplitShape shape = split_shape(pattern, k);
        const std::vector<std::int32_t> perm = random_perm(random, shape);
        const Bytes dense = random_split_matrix(random, shape, perm, dtype, kRows, 2);
        const SplitPacked packed = split_pack(shape, perm, dtype, dense, kRows);
        Bytes out(dense.size(), 0x5a);
        split_unpack_rows(shape, perm, dtype, packed.values.data(), packed.codes.data(), kRows, out.data(),
                          k);
        std::int64_t dropped = 0;
        ASSERT_EQ(out, without_dropped_zeros(dtype, dense, out, dropped));
        EXPECT_EQ(dropped, packed.report.negative_zeros_dropped);
        std::int64_t non_zeros = 0;
        for (std::int64_t i = 0; i < kRows * k; ++i)
          non_zeros += !is_zero(dtype, element(dense.data(), dtype, i));
        EXPECT_EQ(packed.report.non_zeros, non_zeros);
      }
    }
  }
}

// Sparse part: what the 2:4 packer makes of the gathered channels; dense part: the channels as they are.
TEST_P(Split, BytesAreThoseOfTheTwoParts) {
  Random random(42);
  const SplitShape shape = split_shape(Pattern::parse("6:8"), 200);
  ASSERT_EQ(shape.sparse, 64);
  const std::vector<std::int32_t> perm = random_perm(random, shape);
  const Bytes dense = random_split_matrix(random, shape, perm, DType::kF16, 2);
  Bytes sparse = make_matrix(DType::kF16, 2, shape.sparse);
  for (std::int64_t i = 0; i < 2 * shape.sparse; ++i) {
    set_element(sparse.data(), DType::kF16, i,
                element(dense.data(), DType::kF16, i / 64 * 200 + perm[static_cast<std::size_t>(i % 64)]));
  }
  const Packed expected = oracle_pack(Pattern::parse("2:4"), DType::kF16, sparse, 2, shape.sparse);
  const SplitPacked packed = split_pack(shape, perm, DType::kF16, dense, 2);
  EXPECT_EQ(packed.codes, expected.codes);
  const std::int64_t width = shape.values_per_row();
  for (std::int64_t row = 0; row < 2; ++row) {
    for (std::int64_t i = 0; i < width; ++i) {
      const unsigned want =
          i < 32 ? element(expected.values.data(), DType::kF16, row * 32 + i)
                 : element(dense.data(), DType::kF16, row * 200 + perm[static_cast<std::size_t>(i + 32)]);
      ASSERT_EQ(element(packed.values.data(), DType::kF16, row * width + i), want);
    }
  }
}

TEST_P(Split, RefusesCrowdedQuads) {
  Random random(43);
  const SplitShape shape = split_shape(Pattern::parse("4:6"), 192);
  const std::vector<std::int32_t> perm = random_perm(random, shape);
  Bytes dense = random_split_matrix(random, shape, perm, DType::kI8, 4);
  for (std::size_t i = 0; i < 4; ++i) dense[3 * 192 + static_cast<std::size_t>(perm[20 + i])] = i != 1;
  const std::string channels = fmt::format("{},{},{},{}", perm[20], perm[21], perm[22], perm[23]);
  EXPECT_THAT(refusal([&] {
                Bytes values(1024), codes(1024);
                split_pack_rows(shape, perm, DType::kI8, dense.data(), 4, 192, values.data(), codes.data(),
                                70, "w");
              }),
              AllOf(HasSubstr("w: row 73, quad 5 (channels " + channels + ") has 3 non-zeros"),
                    HasSubstr(fmt::format("in channels {},{},{};", perm[20], perm[22], perm[23]))));
}

TEST_P(Split, RefusesBadCodes) {
  Random random(44);
  const SplitShape shape = split_shape(Pattern::parse("2:4"), 64);
  const std::vector<std::int32_t> perm = random_perm(random, shape);
  SplitPacked packed = split_pack(shape, perm, DType::kI8, Bytes(64), 1);
  packed.codes[0] = 7;
  Bytes out(64);
  EXPECT_THAT(refusal([&] {
                split_unpack_rows(shape, perm, DType::kI8, packed.values.data(), packed.codes.data(), 1,
                                  out.data(), 64, "w");
              }),
              HasSubstr("w: row 0, group 0: code 7"));
}

INSTANTIATE_TEST_SUITE_P(Isa, Split, every_isa(), isa_test_name);

TEST(SplitPerm, RefusesDamage) {
  const SplitShape shape = split_shape(Pattern::parse("6:8"), 200);
  Random random(45);
  const std::vector<std::int32_t> good = random_perm(random, shape);
  EXPECT_NO_THROW(validate_perm(shape, good, "x.perm"));
  const auto message = [&](auto change) {
    std::vector<std::int32_t> perm = good;
    change(perm);
    Bytes some(4096);
    std::string text = refusal([&] { validate_perm(shape, perm, "x.perm"); });
    // Packing and unpacking look before they leap.
    EXPECT_EQ(refusal([&] {
                split_pack_rows(shape, perm, DType::kI8, some.data(), 1, 200, some.data() + 1024,
                                some.data() + 2048, 0, "x.perm");
              }),
              text);
    EXPECT_EQ(refusal([&] {
                split_unpack_rows(shape, perm, DType::kI8, some.data(), some.data() + 1024, 1,
                                  some.data() + 2048, 200, "x.perm");
              }),
              text);
    return text;
  };
  EXPECT_THAT(message([](auto& perm) { perm.pop_back(); }),
              HasSubstr("x.perm: the permutation has 199 entries for 200"));
  EXPECT_THAT(message([](auto& perm) { perm.push_back(0); }), HasSubstr("201 entries"));
  EXPECT_THAT(message([](auto& perm) { perm[5] = perm[3]; }),
              HasSubstr("entry 5 of the permutation repeats"));
  EXPECT_THAT(message([](auto& perm) { perm[9] = -1; }),
              HasSubstr("entry 9 of the permutation is -1, outside 0..199"));
  EXPECT_THAT(message([](auto& perm) { perm[9] = 200; }), HasSubstr("entry 9 of the permutation is 200"));
  EXPECT_THAT(message([](auto& perm) { std::swap(perm[100], perm[101]); }),
              AllOf(HasSubstr("entry 101 of the permutation is"), HasSubstr("must ascend")));
}

TEST(SplitShapes, FollowTheBudget) {
  // channels, sparse: floor(k * 4 / 2N / 64) * 64.
  struct Case {
    const char* pattern;
    std::int64_t k, sparse;
  };
  for (const Case& c : {Case{"6:8", 3584, 1792},
                        {"6:8", 18944, 9472},
                        {"6:8", 576, 256},
                        {"6:8", 127, 0},
                        {"6:8", 128, 64},
                        {"2:4", 576, 576},
                        {"2:4", 600, 576},
                        {"4:6", 576, 384},
                        {"4:6", 3584, 2368},
                        {"8:10", 3584, 1408},
                        {"8:10", 2560, 1024},
                        {"14:16", 4096, 1024},
                        {"dense", 4096, 0},
                        {"6:8", 0, 0}}) {
    const SplitShape shape = split_shape(Pattern::parse(c.pattern), c.k);
    EXPECT_EQ(shape.sparse, c.sparse) << c.pattern << " " << c.k;
    EXPECT_EQ(shape.dense, c.k - c.sparse);
    // Never sparser than the budget allows.
    EXPECT_GE(static_cast<double>(shape.values_per_row()),
              shape.pattern.density() * static_cast<double>(c.k) - 1e-9);
  }
  // Where the multiples come out even the share kept is exactly the pattern's.
  for (const Pattern pattern : sparse_patterns()) {
    const std::int64_t k = 32 * pattern.group();
    EXPECT_EQ(split_shape(pattern, k).values_per_row() * pattern.group(), k * pattern.kept());
  }
  EXPECT_EQ(split_shape(Pattern::parse("6:8"), std::int64_t{1} << 62).sparse, std::int64_t{1} << 61);
}

// On disk: values and 3 bits a quad; from the buffers.
TEST(SplitShapes, BytesPerWeight) {
  struct Claim {
    const char* pattern;
    double bytes;
  };
  // kept + sparse share * 3 bits / 4 lanes / 8
  for (const Claim& claim : {Claim{"2:4", 0.5 + 3.0 / 32},
                             {"4:6", 2.0 / 3 + 2.0 / 3 * 3 / 32},
                             {"6:8", 0.75 + 0.5 * 3 / 32},
                             {"8:10", 0.8 + 0.4 * 3 / 32}}) {
    const SplitShape shape = split_shape(Pattern::parse(claim.pattern), 1920);
    std::vector<std::int32_t> perm(1920);
    std::iota(perm.begin(), perm.end(), 0);
    const SplitPacked packed = split_pack(shape, perm, DType::kF8E4M3, Bytes(1920 * 3), 3);
    EXPECT_DOUBLE_EQ(static_cast<double>(packed.values.size() + packed.codes.size()) / (3 * 1920),
                     claim.bytes)
        << claim.pattern;
  }
}

}  // namespace
}  // namespace slidesparse
