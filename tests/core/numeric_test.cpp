#include "core/numeric.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/random.h"

namespace slidesparse {
namespace {

// The nearest of all finite values of a format with `count` codes, ties to the even code: slow, and obviously
// right.
template <typename Decode>
int nearest_code(float value, int positive_codes, Decode decode) {
  int best = 0;
  double best_distance = std::numeric_limits<double>::infinity();
  for (int code = 0; code < positive_codes; ++code) {
    const double distance =
        std::fabs(static_cast<double>(decode(code)) - std::fabs(static_cast<double>(value)));
    if (distance < best_distance || (distance == best_distance && code % 2 == 0)) {
      best = code;
      best_distance = distance;
    }
  }
  return best;
}

TEST(E4M3, EveryCodeSurvivesARoundTrip) {
  for (int code = 0; code < 256; ++code) {
    const float value = e4m3_to_float(static_cast<std::uint8_t>(code));
    if (std::isnan(value)) {
      EXPECT_EQ(code & 0x7f, 0x7f);
    } else {
      EXPECT_EQ(float_to_e4m3(value), code);
    }
  }
  EXPECT_EQ(e4m3_to_float(0x7e), 448.0f);
  EXPECT_EQ(e4m3_to_float(0x01), 0x1p-9f);
}

TEST(E4M3, RoundsToNearestEven) {
  const auto decode = [](int code) { return e4m3_to_float(static_cast<std::uint8_t>(code)); };
  for (int code = 0; code < 0x7e; ++code) {  // every midpoint and its neighbours
    const float middle = 0.5f * (decode(code) + decode(code + 1));
    for (const float value : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) {
      EXPECT_EQ(float_to_e4m3(value), nearest_code(value, 0x7f, decode)) << value;
      EXPECT_EQ(float_to_e4m3(-value), nearest_code(value, 0x7f, decode) | 0x80) << value;
    }
  }
}

TEST(E4M3, SaturatesAndKeepsNan) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(float_to_e4m3(1e30f), 0x7e);
  EXPECT_EQ(float_to_e4m3(464.0f), 0x7e);
  EXPECT_EQ(float_to_e4m3(-infinity), 0xfe);
  EXPECT_TRUE(std::isnan(e4m3_to_float(float_to_e4m3(std::nanf("")))));
  EXPECT_EQ(float_to_e4m3(-0.0f), 0x80);
}

TEST(F16, EveryCodeSurvivesARoundTrip) {
  for (int code = 0; code < 65536; ++code) {
    const float value = f16_to_float(static_cast<std::uint16_t>(code));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(value))));
    } else {
      ASSERT_EQ(float_to_f16(value), code);
    }
  }
}

TEST(F16, RoundsToNearestEven) {
  for (int code = 0; code < 0x7bff; code += 7) {
    const float low = f16_to_float(static_cast<std::uint16_t>(code));
    const float high = f16_to_float(static_cast<std::uint16_t>(code + 1));
    const float middle = 0.5f * (low + high);
    EXPECT_EQ(float_to_f16(middle), code % 2 == 0 ? code : code + 1);
    EXPECT_EQ(float_to_f16(std::nextafter(middle, 0.0f)), code);
    EXPECT_EQ(float_to_f16(std::nextafter(middle, 1e9f)), code + 1);
  }
  EXPECT_EQ(float_to_f16(65519.0f), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
}

TEST(BF16, RoundsToNearestEven) {
  for (int code = 0; code < 0x7f80; code += 3) {
    const auto bits = static_cast<std::uint16_t>(code);
    const float low = bf16_to_float(bits);
    EXPECT_EQ(float_to_bf16(low), bits);
    const float middle = std::bit_cast<float>((static_cast<std::uint32_t>(code) << 16) | 0x8000u);
    EXPECT_EQ(float_to_bf16(middle), code % 2 == 0 ? code : code + 1);
    EXPECT_EQ(float_to_bf16(std::bit_cast<float>(std::bit_cast<std::uint32_t>(middle) - 1)), code);
    EXPECT_EQ(float_to_bf16(std::bit_cast<float>(std::bit_cast<std::uint32_t>(middle) + 1)), code + 1);
  }
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::nanf("")))));
}

TEST(Random, NormalHasTheMomentsItClaims) {
  double sum = 0;
  double squares = 0;
  constexpr int kCount = 200000;
  for (int i = 0; i < kCount; ++i) {
    const double x = random_normal(7, static_cast<std::uint64_t>(i));
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / kCount, 0.0, 0.01);
  EXPECT_NEAR(squares / kCount, 1.0, 0.01);
}

}  // namespace
}  // namespace slidesparse
