#pragma once

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "core/cpu.h"
#include "core/random.h"
#include "slidesparse/core/error.h"
#include "slidesparse/format/codes.h"
#include "slidesparse/format/pack.h"
#include "slidesparse/format/pattern.h"

// A second implementation of docs/format.md, lane by lane and bit by bit, that shares nothing with the first,
// and makers of matrices.
namespace slidesparse::testing {

using Bytes = std::vector<std::uint8_t>;

inline std::vector<Pattern> sparse_patterns() {
  std::vector<Pattern> patterns;
  for (int n = 2; n <= 8; ++n) patterns.push_back(Pattern::of_half_group(n));
  return patterns;
}

inline std::vector<Pattern> all_patterns() {
  std::vector<Pattern> patterns = sparse_patterns();
  patterns.push_back(Pattern());
  return patterns;
}

inline const std::vector<DType>& packable_dtypes() {
  static const std::vector<DType> kDTypes{DType::kI8, DType::kF8E4M3, DType::kF16, DType::kBF16};
  return kDTypes;
}

// Lengths that leave tails, and those of real models.
inline const std::vector<std::int64_t>& awkward_lengths() {
  static const std::vector<std::int64_t> kLengths{1, 7, 8, 9, 63, 64, 65, 576, 1536, 3584, 18944};
  return kLengths;
}

inline bool is_float(DType dtype) {
  return dtype != DType::kI8;
}
inline unsigned negative_zero(DType dtype) {
  return dtype_size(dtype) == 1 ? 0x80u : 0x8000u;
}

inline unsigned element(const void* data, DType dtype, std::int64_t index) {
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  if (dtype_size(dtype) == 1) return bytes[index];
  std::uint16_t value = 0;
  std::memcpy(&value, bytes + 2 * index, 2);
  return value;
}

inline void set_element(void* data, DType dtype, std::int64_t index, unsigned value) {
  std::memcpy(static_cast<std::uint8_t*>(data) + index * static_cast<std::int64_t>(dtype_size(dtype)), &value,
              dtype_size(dtype));
}

inline bool is_zero(DType dtype, unsigned value) {
  return value == 0 || (is_float(dtype) && value == negative_zero(dtype));
}

inline Bytes make_matrix(DType dtype, std::int64_t rows, std::int64_t k) {
  return Bytes(static_cast<std::size_t>(rows * k) * dtype_size(dtype));
}

// A matrix in which each group has a random number of non-zeros up to `kept`, anywhere; the other lanes are
// +0 or, for floating point, -0 in `negative_zeros` of 8 cases.
inline Bytes random_matrix(Random& random, Pattern pattern, DType dtype, std::int64_t rows, std::int64_t k,
                           int negative_zeros = 0) {
  Bytes matrix = make_matrix(dtype, rows, k);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t first = 0; first < k; first += pattern.group()) {
      std::int64_t budget = random.below(2) == 0 ? pattern.kept() : random.below(pattern.kept() + 1);
      const std::int64_t width = std::min<std::int64_t>(pattern.group(), k - first);
      for (std::int64_t lane = 0; lane < width; ++lane) {
        // Selection sampling: every subset of size `budget` is equally likely.
        unsigned value = 0;
        if (random.below(pattern.group() - lane) < budget) {
          --budget;
          do {
            value = static_cast<unsigned>(random.bits()) & (dtype_size(dtype) == 1 ? 0xffu : 0xffffu);
          } while (is_zero(dtype, value));
        } else if (is_float(dtype) && random.below(8) < negative_zeros) {
          value = negative_zero(dtype);
        }
        set_element(matrix.data(), dtype, row * k + first + lane, value);
      }
    }
  }
  return matrix;
}

struct Packed {
  Bytes values;
  Bytes codes;
  PackReport report;

  PackedView view(Pattern pattern, DType dtype, std::int64_t rows, std::int64_t k) const {
    return {pattern, dtype, rows, k, values.data(), codes.data()};
  }
};

inline Packed pack(Pattern pattern, DType dtype, const Bytes& dense, std::int64_t rows, std::int64_t k) {
  const std::int64_t values = rows * pattern.values_per_row(k) * static_cast<std::int64_t>(dtype_size(dtype));
  Packed packed{Bytes(static_cast<std::size_t>(values), 0xa5),
                Bytes(static_cast<std::size_t>(rows * pattern.code_bytes_per_row(k)), 0xa5),
                {}};
  packed.report =
      pack_rows(pattern, dtype, dense.data(), rows, k, k, packed.values.data(), packed.codes.data());
  return packed;
}

// The packed form by the words of the document; the matrix must obey the pattern.
inline Packed oracle_pack(Pattern pattern, DType dtype, const Bytes& dense, std::int64_t rows,
                          std::int64_t k) {
  Packed packed;
  for (std::int64_t row = 0; row < rows; ++row) {
    std::vector<bool> bits;
    for (std::int64_t group = 0; group * pattern.group() < k; ++group) {
      std::vector<unsigned> lanes;
      for (int lane = 0; lane < pattern.group(); ++lane) {
        const std::int64_t channel = group * pattern.group() + lane;
        lanes.push_back(channel < k ? element(dense.data(), dtype, row * k + channel) : 0u);
      }
      // Non-zeros, then -0, then +0, lowest first.
      std::vector<int> order;
      for (int rank = 0; rank < 3; ++rank) {
        for (int lane = 0; lane < pattern.group(); ++lane) {
          const unsigned value = lanes[static_cast<std::size_t>(lane)];
          const int lane_rank = !is_zero(dtype, value) ? 0 : value != 0 ? 1 : 2;
          if (lane_rank == rank) order.push_back(lane);
          packed.report.non_zeros += rank == 0 && lane_rank == 0;
        }
      }
      std::vector<int> kept(order.begin(), order.begin() + pattern.kept());
      std::sort(kept.begin(), kept.end());
      for (std::size_t i = static_cast<std::size_t>(pattern.kept()); i < order.size(); ++i) {
        packed.report.negative_zeros_dropped += lanes[static_cast<std::size_t>(order[i])] != 0;
      }
      for (const int lane : kept) {
        const unsigned value = lanes[static_cast<std::size_t>(lane)];
        packed.values.push_back(static_cast<std::uint8_t>(value));
        if (dtype_size(dtype) == 2) packed.values.push_back(static_cast<std::uint8_t>(value >> 8));
      }
      if (pattern.is_dense()) continue;
      int code = 0;
      for (int b = 1; b < pattern.group(); ++b) {
        for (int a = 0; a < b; ++a, ++code) {
          if (std::count(kept.begin(), kept.end(), a) + std::count(kept.begin(), kept.end(), b) != 0)
            continue;
          for (int bit = 0; bit < pattern.code_bits(); ++bit) bits.push_back((code >> bit & 1) != 0);
        }
      }
    }
    while (bits.size() % 8 != 0) bits.push_back(false);
    for (std::size_t byte = 0; byte < bits.size(); byte += 8) {
      unsigned value = 0;
      for (unsigned bit = 0; bit < 8; ++bit) value |= static_cast<unsigned>(bits[byte + bit]) << bit;
      packed.codes.push_back(static_cast<std::uint8_t>(value));
    }
  }
  return packed;
}

// The matrix that unpacking must give: the original but for -0 lanes that did not fit, whose number is
// `dropped`.
inline Bytes without_dropped_zeros(DType dtype, const Bytes& original, const Bytes& unpacked,
                                   std::int64_t& dropped) {
  Bytes expected = original;
  dropped = 0;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(original.size() / dtype_size(dtype)); ++i) {
    if (is_float(dtype) && element(original.data(), dtype, i) == negative_zero(dtype) &&
        element(unpacked.data(), dtype, i) == 0) {
      set_element(expected.data(), dtype, i, 0);
      ++dropped;
    }
  }
  return expected;
}

// The message of the Error that `body` must throw.
template <typename Body>
std::string refusal(const Body& body, ErrorKind kind = ErrorKind::kInput) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

// Runs a test once for every instruction set; those that the processor lacks are skipped and counted.
class EveryIsa : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (GetParam() > detected_isa()) GTEST_SKIP() << "this processor has no " << isa_name(GetParam());
    force_isa(GetParam());
  }
  void TearDown() override { force_isa(std::nullopt); }
};

inline std::string isa_test_name(const ::testing::TestParamInfo<Isa>& info) {
  return std::string(isa_name(info.param));
}

inline auto every_isa() {
  return ::testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512);
}

}  // namespace slidesparse::testing
