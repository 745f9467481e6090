#include "slidesparse/format/pack.h"

#include <sys/mman.h>
#include <unistd.h>

#include <bit>

#include "format/format_oracle.h"

namespace slidesparse {
namespace {

using namespace slidesparse::testing;

class Pack : public EveryIsa {};

// Packs, compares with the oracle, unpacks, and compares with the original.
void check_round_trip(Pattern pattern, DType dtype, const Bytes& dense, std::int64_t rows, std::int64_t k) {
  SCOPED_TRACE(fmt::format("{} {} k={}", pattern.to_string(), dtype_name(dtype), k));
  const Packed packed = pack(pattern, dtype, dense, rows, k);
  const Packed expected = oracle_pack(pattern, dtype, dense, rows, k);
  ASSERT_EQ(packed.values, expected.values);
  ASSERT_EQ(packed.codes, expected.codes);
  EXPECT_EQ(packed.report.non_zeros, expected.report.non_zeros);
  EXPECT_EQ(packed.report.negative_zeros_dropped, expected.report.negative_zeros_dropped);

  Bytes unpacked(dense.size(), 0x5a);
  const PackedView view = packed.view(pattern, dtype, rows, k);
  unpack_rows(view, 0, rows, unpacked.data(), k);
  std::int64_t dropped = 0;
  ASSERT_EQ(unpacked, without_dropped_zeros(dtype, dense, unpacked, dropped));
  EXPECT_EQ(dropped, packed.report.negative_zeros_dropped);
  EXPECT_NO_THROW(validate_packed(view));
  EXPECT_EQ(find_violation(pattern, dtype, dense.data(), rows, k, k), std::nullopt);
}

// Every mask with at most 2N-2 of 2N non-zeros, each as a group among others, in one matrix.
TEST_P(Pack, EveryMaskUpToEightLanes) {
  for (const Pattern pattern :
       {Pattern::of_half_group(2), Pattern::of_half_group(3), Pattern::of_half_group(4)}) {
    for (const DType dtype : packable_dtypes()) {
      std::vector<unsigned> masks;
      for (unsigned mask = 0; mask < 1u << pattern.group(); ++mask) {
        if (std::popcount(mask) <= pattern.kept()) masks.push_back(mask);
      }
      if (pattern.group() == 8) {
        EXPECT_EQ(masks.size(), 247u);
      }
      const std::int64_t k = static_cast<std::int64_t>(masks.size()) * pattern.group();
      Bytes dense = make_matrix(dtype, 1, k);
      for (std::int64_t i = 0; i < k; ++i) {
        const unsigned mask = masks[static_cast<std::size_t>(i / pattern.group())];
        // Distinct neighbours, and -128 or NaN bits among them.
        if (mask >> i % pattern.group() & 1u) set_element(dense.data(), dtype, i, 0x81u + i % 127u);
      }
      check_round_trip(pattern, dtype, dense, 1, k);
    }
  }
}

// Every assignment of {non-zero, -0, +0} to the lanes of a group that has room.
TEST_P(Pack, EveryMixtureOfZerosUpToEightLanes) {
  for (const Pattern pattern :
       {Pattern::of_half_group(2), Pattern::of_half_group(3), Pattern::of_half_group(4)}) {
    for (const DType dtype : {DType::kF8E4M3, DType::kBF16}) {
      std::int64_t assignments = 1;
      for (int lane = 0; lane < pattern.group(); ++lane) assignments *= 3;
      Bytes dense = make_matrix(dtype, 1, assignments * pattern.group());
      std::int64_t k = 0;
      for (std::int64_t assignment = 0; assignment < assignments; ++assignment) {
        int non_zeros = 0;
        std::int64_t digits = assignment;
        for (int lane = 0; lane < pattern.group(); ++lane, digits /= 3) {
          const unsigned kinds[] = {0u, negative_zero(dtype), 1u + static_cast<unsigned>(lane)};
          set_element(dense.data(), dtype, k + lane, kinds[digits % 3]);
          non_zeros += digits % 3 == 2;
        }
        if (non_zeros <= pattern.kept()) k += pattern.group();
      }
      dense.resize(static_cast<std::size_t>(k) * dtype_size(dtype));
      check_round_trip(pattern, dtype, dense, 1, k);
    }
  }
}

TEST_P(Pack, RandomMasksAtAwkwardLengths) {
  Random random(11);
  for (const Pattern pattern : all_patterns()) {
    for (const DType dtype : packable_dtypes()) {
      for (const std::int64_t k : awkward_lengths()) {
        const std::int64_t rows = k > 4000 ? 2 : 5;
        check_round_trip(pattern, dtype, random_matrix(random, pattern, dtype, rows, k), rows, k);
        check_round_trip(pattern, dtype, random_matrix(random, pattern, dtype, rows, k, 3), rows, k);
      }
    }
  }
}

TEST_P(Pack, EveryShortLength) {
  Random random(12);
  for (const Pattern pattern : sparse_patterns()) {
    for (std::int64_t k = 1; k <= 200; ++k) {
      check_round_trip(pattern, DType::kF8E4M3, random_matrix(random, pattern, DType::kF8E4M3, 3, k, 2), 3,
                       k);
      check_round_trip(pattern, DType::kBF16, random_matrix(random, pattern, DType::kBF16, 3, k, 2), 3, k);
    }
  }
}

// -0.0 is a zero that is kept where there is room; 0x80 of an integer is -128.
TEST_P(Pack, NegativeZeros) {
  const Pattern pattern = Pattern::parse("2:4");
  const Bytes row{0x80, 0x00, 0x80, 0x38};
  const Packed floats = pack(pattern, DType::kF8E4M3, row, 1, 4);
  EXPECT_EQ(floats.values, (Bytes{0x80, 0x38}));
  EXPECT_EQ(floats.codes, (Bytes{2}));  // lanes 1 and 2 are dropped
  EXPECT_EQ(floats.report.non_zeros, 1);
  EXPECT_EQ(floats.report.negative_zeros_dropped, 1);
  EXPECT_EQ(find_violation(pattern, DType::kF8E4M3, row.data(), 1, 4, 4), std::nullopt);

  const auto violation = find_violation(pattern, DType::kI8, row.data(), 1, 4, 4);
  ASSERT_TRUE(violation.has_value());
  EXPECT_EQ(violation->lanes, "0,2,3");

  // Sixteen-bit zeros, all lanes: two of four stay.
  const Bytes zeros{0x00, 0x80, 0x00, 0x80, 0x00, 0x80, 0x00, 0x80};
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    const Packed packed = pack(pattern, dtype, zeros, 1, 4);
    EXPECT_EQ(packed.values, (Bytes{0x00, 0x80, 0x00, 0x80}));
    EXPECT_EQ(packed.codes, (Bytes{5}));
    EXPECT_EQ(packed.report.negative_zeros_dropped, 2);
    EXPECT_EQ(packed.report.non_zeros, 0);
  }
}

// Bytes of 0x80 in the low half of a 16-bit element are no sign.
TEST_P(Pack, LowByteIsNoSign) {
  const Bytes row{0x80, 0x00, 0x80, 0x00, 0x80, 0x00, 0x00, 0x00};
  EXPECT_EQ(find_violation(Pattern::parse("2:4"), DType::kBF16, row.data(), 1, 4, 4)->non_zeros, 3);
}

// Row strides are honoured and nothing outside the ranges is touched.
TEST_P(Pack, StridesAndBounds) {
  Random random(13);
  for (const Pattern pattern : all_patterns()) {
    for (const DType dtype : {DType::kI8, DType::kF16}) {
      for (const std::int64_t k : {5, 64, 71, 333}) {
        constexpr std::int64_t kRows = 6;
        const std::int64_t ld = k + 3;
        const auto size = static_cast<std::int64_t>(dtype_size(dtype));
        const Bytes dense = random_matrix(random, pattern, dtype, kRows, k);
        Bytes strided(static_cast<std::size_t>(kRows * ld * size), 0xcc);
        for (std::int64_t row = 0; row < kRows; ++row) {
          std::memcpy(strided.data() + row * ld * size, dense.data() + row * k * size,
                      static_cast<std::size_t>(k * size));
        }
        const Packed whole = pack(pattern, dtype, dense, kRows, k);
        // Rows 2 and 3 alone, between sentinels.
        const auto value_bytes = static_cast<std::size_t>(2 * pattern.values_per_row(k) * size);
        const auto code_bytes = static_cast<std::size_t>(2 * pattern.code_bytes_per_row(k));
        Bytes values(value_bytes + 128, 0xee);
        Bytes codes(code_bytes + 128, 0xee);
        pack_rows(pattern, dtype, strided.data() + 2 * ld * size, 2, k, ld, values.data() + 64,
                  codes.data() + 64, 2);
        EXPECT_TRUE(std::equal(values.begin() + 64, values.end() - 64,
                               whole.values.begin() + static_cast<std::ptrdiff_t>(value_bytes)));
        EXPECT_TRUE(std::equal(codes.begin() + 64, codes.end() - 64,
                               whole.codes.begin() + static_cast<std::ptrdiff_t>(code_bytes)));
        for (std::size_t i = 0; i < 64; ++i) {
          ASSERT_EQ(values[i] & values[values.size() - 1 - i] & codes[i] & codes[codes.size() - 1 - i], 0xee);
        }
        Bytes out(strided.size(), 0xcc);
        unpack_rows(whole.view(pattern, dtype, kRows, k), 1, 4, out.data() + ld * size, ld);
        Bytes expected(strided.size(), 0xcc);
        std::copy(strided.begin() + static_cast<std::ptrdiff_t>(ld * size),
                  strided.begin() + static_cast<std::ptrdiff_t>(5 * ld * size),
                  expected.begin() + static_cast<std::ptrdiff_t>(ld * size));
        EXPECT_EQ(out, expected);
      }
    }
  }
}

// Memory whose last byte is followed by a page that must not be touched, as at the end of a mapped file.
class GuardedBytes {
 public:
  explicit GuardedBytes(const Bytes& content) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t inside = (content.size() + page - 1) / page * page;
    size_ = inside + page;
    base_ = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(base_, MAP_FAILED);
    EXPECT_EQ(mprotect(static_cast<std::uint8_t*>(base_) + inside, page, PROT_NONE), 0);
    data_ = static_cast<std::uint8_t*>(base_) + inside - content.size();
    if (!content.empty()) std::memcpy(data_, content.data(), content.size());
  }
  ~GuardedBytes() { munmap(base_, size_); }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;

  std::uint8_t* data() const { return data_; }

 private:
  void* base_ = nullptr;
  std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
};

TEST_P(Pack, NeverReadsOrWritesBehindTheEnd) {
  Random random(15);
  for (const Pattern pattern : all_patterns()) {
    for (const DType dtype : {DType::kI8, DType::kBF16}) {
      for (const std::int64_t k : {1, 5, 31, 32, 33, 63, 64, 65, 127, 128, 200}) {
        const Bytes dense = random_matrix(random, pattern, dtype, 2, k);
        const Packed packed = pack(pattern, dtype, dense, 2, k);
        const GuardedBytes guarded_dense(dense);
        const GuardedBytes values(Bytes(packed.values.size()));
        const GuardedBytes codes(Bytes(packed.codes.size()));
        pack_rows(pattern, dtype, guarded_dense.data(), 2, k, k, values.data(), codes.data());
        ASSERT_TRUE(std::equal(packed.values.begin(), packed.values.end(), values.data()));
        ASSERT_TRUE(std::equal(packed.codes.begin(), packed.codes.end(), codes.data()));
        const GuardedBytes out(Bytes(dense.size()));
        const PackedView view{pattern, dtype, 2, k, values.data(), codes.data()};
        unpack_rows(view, 0, 2, out.data(), k);
        ASSERT_TRUE(std::equal(dense.begin(), dense.end(), out.data()));
        validate_packed(view);
        EXPECT_EQ(find_violation(pattern, dtype, guarded_dense.data(), 2, k, k), std::nullopt);
      }
    }
  }
}

TEST_P(Pack, NothingIsFine) {
  for (const Pattern pattern : all_patterns()) {
    Bytes none(64);
    EXPECT_EQ(pack_rows(pattern, DType::kI8, none.data(), 0, 8, 8, none.data(), none.data()).non_zeros, 0);
    EXPECT_EQ(pack_rows(pattern, DType::kI8, none.data(), 3, 0, 0, none.data(), none.data()).non_zeros, 0);
    const PackedView empty{pattern, DType::kI8, 3, 0, none.data(), none.data()};
    EXPECT_NO_THROW(unpack_rows(empty, 0, 3, none.data(), 0));
    EXPECT_NO_THROW(validate_packed(empty));
    EXPECT_EQ(find_violation(pattern, DType::kI8, none.data(), 3, 0, 0), std::nullopt);
  }
}

TEST_P(Pack, FindsTheTightestPattern) {
  Random random(14);
  for (const Pattern pattern : all_patterns()) {
    for (const DType dtype : packable_dtypes()) {
      // Full groups, so that no tighter pattern can hold.
      Bytes dense = make_matrix(dtype, 4, 1680);
      for (std::int64_t i = 0; i < 4 * 1680; ++i) {
        const bool kept = pattern.is_dense() || i % pattern.group() >= 2;
        set_element(dense.data(), dtype, i, kept ? 1u + static_cast<unsigned>(random.below(100)) : 0u);
      }
      EXPECT_EQ(find_pattern(dtype, dense.data(), 4, 1680, 1680), pattern);
    }
  }
  const Bytes zeros(256);
  EXPECT_EQ(find_pattern(DType::kI8, zeros.data(), 2, 128, 128), Pattern::parse("2:4"));
}

INSTANTIATE_TEST_SUITE_P(Isa, Pack, every_isa(), isa_test_name);

// Design: bytes a dense weight, from the buffers themselves.
TEST(PackBytes, PerWeight) {
  struct Claim {
    int n;
    double one_byte, two_byte;
  };
  const Claim claims[] = {
      {2, 0.59375, 1.09375}, {3, 0.75, 0.75 + 2.0 / 3}, {4, 0.828125, 1.578125}, {5, 0.875, 1.675}};
  for (const Claim& claim : claims) {
    const Pattern pattern = Pattern::of_half_group(claim.n);
    constexpr std::int64_t kRows = 7;
    const std::int64_t k = 8 * pattern.group() * 24;
    for (const DType dtype : packable_dtypes()) {
      const Packed packed = pack(pattern, dtype, make_matrix(dtype, kRows, k), kRows, k);
      const auto bytes = static_cast<double>(packed.values.size() + packed.codes.size());
      const double expected = dtype_size(dtype) == 1 ? claim.one_byte : claim.two_byte;
      EXPECT_DOUBLE_EQ(bytes / static_cast<double>(kRows * k), expected) << pattern.to_string();
      const PackedView view = packed.view(pattern, dtype, kRows, k);
      EXPECT_EQ(static_cast<double>(view.value_bytes() + view.code_bytes()), bytes);
    }
  }
  // Qwen2.5-7B's down projection at 6:8: K = 18944 = 8 * 2368.
  const PackedView down{Pattern::parse("6:8"), DType::kF8E4M3, 3584, 18944, nullptr, nullptr};
  EXPECT_EQ(down.value_bytes() + down.code_bytes(), 3584 * 18944 / 128 * 106);
}

}  // namespace
}  // namespace slidesparse
