#include "quant/activations.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/numeric.h"
#include "core/random.h"

namespace slidesparse {
namespace {

TEST(Activations, CodesAreTheNearestOfTheScaledToken) {
  const std::int64_t m = 5, k = 131, ld = 140;
  std::vector<std::uint16_t> x(m * ld, 0x7fc0);
  for (std::int64_t t = 0; t < m; ++t) {
    for (std::int64_t i = 0; i < k; ++i) {
      x[static_cast<std::size_t>(t * ld + i)] =
          float_to_bf16(random_normal(3, static_cast<std::uint64_t>(t * k + i)) * static_cast<float>(t + 1));
    }
  }
  std::vector<std::int8_t> int8(m * k);
  std::vector<std::uint8_t> fp8(m * k);
  std::vector<float> scales(m), fp8_scales(m);
  quantise_tokens(DType::kI8, x.data(), m, k, ld, int8.data(), scales.data());
  quantise_tokens(DType::kF8E4M3, x.data(), m, k, ld, fp8.data(), fp8_scales.data());
  for (std::int64_t t = 0; t < m; ++t) {
    float largest = 0;
    for (std::int64_t i = 0; i < k; ++i)
      largest = std::max(largest, std::fabs(bf16_to_float(x[static_cast<std::size_t>(t * ld + i)])));
    const auto row = static_cast<std::size_t>(t);
    EXPECT_EQ(scales[row], largest / 127.0f);
    EXPECT_EQ(fp8_scales[row], largest / 448.0f);
    for (std::int64_t i = 0; i < k; ++i) {
      const float value = bf16_to_float(x[static_cast<std::size_t>(t * ld + i)]);
      const auto at = static_cast<std::size_t>(t * k + i);
      const double scaled = static_cast<double>(value * (1.0f / scales[row]));
      EXPECT_LE(std::fabs(scaled - int8[at]), 0.5);
      EXPECT_EQ(fp8[at], float_to_e4m3(value * (1.0f / fp8_scales[row])));
    }
  }
}

TEST(Activations, TiesGoToEvenAndMinus128IsNeverMade) {
  // absmax 127: scale 1, so half steps are ties.
  const float values[] = {-127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 126.5f};
  std::vector<std::uint16_t> x;
  for (const float value : values) x.push_back(float_to_bf16(value));
  std::vector<std::int8_t> codes(7);
  float scale = 0;
  quantise_tokens(DType::kI8, x.data(), 1, 7, 7, codes.data(), &scale);
  EXPECT_EQ(scale, 1.0f);
  EXPECT_EQ(codes, (std::vector<std::int8_t>{-127, 0, 2, 2, 0, -2, 126}));
}

TEST(Activations, ZeroTinyAndBrokenTokensTouchOnlyThemselves) {
  const std::uint16_t one = float_to_bf16(1.0f);
  // zero, -0, smallest subnormal, NaN, infinity, ordinary
  const std::vector<std::uint16_t> x = {0, 0, 0x8000, 0x8000, 1, 0x8001, 0x7fc0, one, one, 0xff80, one, one};
  for (const DType target : {DType::kI8, DType::kF8E4M3}) {
    std::vector<std::uint8_t> codes(12, 0x55);
    std::vector<float> scales(6, 7.0f);
    quantise_tokens(target, x.data(), 6, 2, 2, codes.data(), scales.data());
    for (int t = 0; t < 3; ++t) EXPECT_EQ(scales[static_cast<std::size_t>(t)], 0.0f) << t;
    EXPECT_TRUE(std::isnan(scales[3]));
    EXPECT_TRUE(std::isnan(scales[4]));
    EXPECT_TRUE(std::all_of(codes.begin(), codes.begin() + 10, [](std::uint8_t code) { return code == 0; }));
    EXPECT_EQ(codes[10], target == DType::kI8 ? 127 : 0x7e);
    EXPECT_GT(scales[5], 0.0f);
  }
}

}  // namespace
}  // namespace slidesparse
