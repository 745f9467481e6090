#include "prune/prune.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "core/cpu.h"
#include "core/numeric.h"
#include "core/random.h"
#include "slidesparse/core/error.h"
#include "slidesparse/format/pack.h"

namespace slidesparse {
namespace {

using ::testing::HasSubstr;

const DType kDTypes[] = {DType::kI8, DType::kF8E4M3, DType::kBF16, DType::kF16, DType::kF32};

double value_of(DType dtype, const std::byte* data, std::int64_t i) {
  switch (dtype) {
    case DType::kI8:
      return static_cast<double>(std::bit_cast<std::int8_t>(data[i]));
    case DType::kF8E4M3:
      return e4m3_to_float(static_cast<std::uint8_t>(data[i]));
    case DType::kBF16:
      return bf16_to_float(reinterpret_cast<const std::uint16_t*>(data)[i]);
    case DType::kF16:
      return f16_to_float(reinterpret_cast<const std::uint16_t*>(data)[i]);
    default:
      return reinterpret_cast<const float*>(data)[i];
  }
}

// Random finite weights with many ties, zeros and negative zeros.
std::vector<std::byte> random_matrix(DType dtype, std::int64_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<std::byte> data(static_cast<std::size_t>(count) * dtype_size(dtype));
  for (std::int64_t i = 0; i < count; ++i) {
    float value = static_cast<float>(random.below(9) - 4);
    if (random.below(4) == 0) value = random.normal();
    if (value == 0.0f && random.below(2) == 0) value = -0.0f;
    const auto at = static_cast<std::size_t>(i);
    switch (dtype) {
      case DType::kI8:
        data[at] = static_cast<std::byte>(random.below(5) == 0 ? 0x80 : static_cast<int>(value));
        break;
      case DType::kF8E4M3:
        data[at] = static_cast<std::byte>(float_to_e4m3(value));
        break;
      case DType::kBF16:
        reinterpret_cast<std::uint16_t*>(data.data())[at] = float_to_bf16(value);
        break;
      case DType::kF16:
        reinterpret_cast<std::uint16_t*>(data.data())[at] = float_to_f16(value);
        break;
      default:
        reinterpret_cast<float*>(data.data())[at] = value;
        break;
    }
  }
  return data;
}

// The rule as written: sort the lanes by magnitude, smaller first, lower lane first among equals; drop from
// the front until 2N-2 are left.
std::vector<std::byte> plain_prune(Pattern pattern, DType dtype, std::vector<std::byte> data,
                                   std::int64_t rows, std::int64_t k, std::int64_t ld) {
  const std::size_t size = dtype_size(dtype);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t first = 0; first < k; first += pattern.group()) {
      std::vector<std::int64_t> lanes;
      for (std::int64_t i = first; i < std::min<std::int64_t>(k, first + pattern.group()); ++i)
        lanes.push_back(r * ld + i);
      const auto magnitude = [&](std::int64_t i) { return std::fabs(value_of(dtype, data.data(), i)); };
      if (std::count_if(lanes.begin(), lanes.end(), [&](auto i) { return magnitude(i) != 0; }) <=
          pattern.kept())
        continue;
      std::stable_sort(lanes.begin(), lanes.end(),
                       [&](auto a, auto b) { return magnitude(a) < magnitude(b); });
      for (std::size_t i = 0; i + static_cast<std::size_t>(pattern.kept()) < lanes.size(); ++i) {
        std::memset(data.data() + static_cast<std::size_t>(lanes[i]) * size, 0, size);
      }
    }
  }
  return data;
}

class Prune : public ::testing::Test {
 protected:
  void TearDown() override { force_isa(std::nullopt); }
};

TEST_F(Prune, EqualsThePlainRuleForEveryPatternAndDtype) {
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (isa > detected_isa()) continue;
    force_isa(isa);
    for (int half = 2; half <= 8; ++half) {
      const Pattern pattern = Pattern::of_half_group(half);
      for (const DType dtype : kDTypes) {
        for (const std::int64_t k : {1, 7, 8, 9, 15, 64, 131}) {
          SCOPED_TRACE(testing::Message() << pattern.to_string() << " " << dtype_name(dtype) << " k " << k);
          const std::int64_t rows = 5, ld = k + 2;
          const std::vector<std::byte> before =
              random_matrix(dtype, rows * ld, static_cast<std::uint64_t>(half * 1000 + k));
          std::vector<std::byte> after = before;
          const PruneReport report =
              prune_rows(pattern, PruneMethod::kMagnitude, dtype, after.data(), rows, k, ld);
          const std::vector<std::byte> want = plain_prune(pattern, dtype, before, rows, k, ld);
          EXPECT_TRUE(after == want);
          PruneReport count;
          for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t c = 0; c < k; ++c) {
              const double old_value = value_of(dtype, before.data(), r * ld + c);
              const double new_value = value_of(dtype, want.data(), r * ld + c);
              count += {1, new_value == 0, new_value == 0 && old_value != 0, old_value * old_value,
                        new_value * new_value};
            }
          }
          EXPECT_EQ(report.elements, rows * k);
          EXPECT_EQ(report.zeros, count.zeros);
          EXPECT_EQ(report.pruned, count.pruned);
          EXPECT_NEAR(report.energy, count.energy, 1e-9 * count.energy);
          EXPECT_NEAR(report.energy_kept, count.energy_kept, 1e-9 * count.energy);
          // And it stays: pruning again loses nothing, checking accepts it.
          const PruneReport again =
              prune_rows(pattern, PruneMethod::kMagnitude, dtype, after.data(), rows, k, ld);
          EXPECT_EQ(again.pruned, 0);
          EXPECT_EQ(again.energy, again.energy_kept);
          EXPECT_TRUE(after == want);
          EXPECT_NO_THROW(prune_rows(pattern, PruneMethod::kNone, dtype, after.data(), rows, k, ld));
        }
      }
    }
  }
}

TEST_F(Prune, TiesDropTheLowerLane) {
  std::vector<std::int8_t> w = {1, -1, 1, 1, -1, 1, 1, -1};
  prune_rows(Pattern::parse("6:8"), PruneMethod::kMagnitude, DType::kI8, w.data(), 1, 8, 8);
  EXPECT_EQ(w, (std::vector<std::int8_t>{0, 0, 1, 1, -1, 1, 1, -1}));
}

TEST_F(Prune, Minus128IsTheLargestCode) {
  std::vector<std::int8_t> w = {-128, 127, 127, 126};
  prune_rows(Pattern::parse("2:4"), PruneMethod::kMagnitude, DType::kI8, w.data(), 1, 4, 4);
  EXPECT_EQ(w, (std::vector<std::int8_t>{-128, 0, 127, 0}));
}

TEST_F(Prune, GroupsThatObeyKeepTheirNegativeZeros) {
  std::vector<std::uint16_t> w = {0x8000, 0x3f80, 0x8000, 0x3f80, 0x8000, 0x3f80, 0x4000, 0x4080};
  prune_rows(Pattern::parse("2:4"), PruneMethod::kMagnitude, DType::kBF16, w.data(), 1, 8, 8);
  // The second group breaks 2:4: its -0 lane is one of the dropped and becomes +0.
  EXPECT_EQ(w, (std::vector<std::uint16_t>{0x8000, 0x3f80, 0x8000, 0x3f80, 0, 0, 0x4000, 0x4080}));
}

TEST_F(Prune, TailIsPrunedOnlyWhenItHasToBe) {
  std::vector<std::int8_t> six = {1, 2, 3, 4, 5, 6};
  prune_rows(Pattern::parse("6:8"), PruneMethod::kMagnitude, DType::kI8, six.data(), 1, 6, 6);
  EXPECT_EQ(six, (std::vector<std::int8_t>{1, 2, 3, 4, 5, 6}));
  std::vector<std::int8_t> seven = {1, 2, 3, 4, 5, 6, 7};
  prune_rows(Pattern::parse("6:8"), PruneMethod::kMagnitude, DType::kI8, seven.data(), 1, 7, 7);
  EXPECT_EQ(seven, (std::vector<std::int8_t>{0, 2, 3, 4, 5, 6, 7}));
}

TEST_F(Prune, MethodNoneNamesThePlace) {
  std::vector<std::int8_t> w(32, 0);
  w[16 + 4] = w[16 + 5] = w[16 + 7] = 3;
  try {
    prune_rows(Pattern::parse("2:4"), PruneMethod::kNone, DType::kI8, w.data(), 2, 16, 16, 40, "up.weight");
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    EXPECT_THAT(error.what(),
                HasSubstr("up.weight: row 41, group 1: 3 non-zeros (lanes 0,1,3), 2:4 allows 2"));
  }
}

TEST_F(Prune, RefusesWhatIsNotFinite) {
  const std::pair<DType, std::uint32_t> bad[] = {{DType::kF8E4M3, 0xffu},    {DType::kBF16, 0x7fc1u},
                                                 {DType::kBF16, 0xff80u},    {DType::kF16, 0x7c00u},
                                                 {DType::kF32, 0x7f800000u}, {DType::kF32, 0xffc00000u}};
  for (const auto& [dtype, bits] : bad) {
    for (const char* pattern : {"dense", "6:8"}) {
      std::vector<std::byte> w(50 * 4);
      std::memcpy(w.data() + 37 * dtype_size(dtype), &bits, dtype_size(dtype));
      try {
        prune_rows(Pattern::parse(pattern), PruneMethod::kMagnitude, dtype, w.data(), 2, 25, 25, 0,
                   "q.weight");
        ADD_FAILURE() << dtype_name(dtype);
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), HasSubstr("q.weight: the weight at row 1, column 12 is "));
      }
    }
  }
}

TEST_F(Prune, DenseOnlyCounts) {
  std::vector<float> w = {0.0f, -0.0f, 2.0f, 1.0f};
  const PruneReport report = prune_rows(Pattern(), PruneMethod::kMagnitude, DType::kF32, w.data(), 1, 4, 4);
  EXPECT_EQ(report.zeros, 2);
  EXPECT_EQ(report.pruned, 0);
  EXPECT_EQ(report.energy, 5.0);
  EXPECT_EQ(report.energy_kept, 5.0);
  EXPECT_EQ(w[3], 1.0f);
}

TEST_F(Prune, MethodNames) {
  EXPECT_EQ(parse_prune_method("none"), PruneMethod::kNone);
  EXPECT_EQ(parse_prune_method(prune_method_name(PruneMethod::kMagnitude)), PruneMethod::kMagnitude);
  EXPECT_THROW(parse_prune_method("awp"), Error);
}

}  // namespace
}  // namespace slidesparse
