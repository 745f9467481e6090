#include "ops/second_moments.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/buffer.h"
#include "core/numeric.h"
#include "core/parallel.h"
#include "core/random.h"

namespace slidesparse {
namespace {

struct Input {
  Input(std::int64_t m, std::int64_t k, std::int64_t stride)
      : values(static_cast<std::size_t>(m * stride), 0x7fc0) {
    Random random(7);
    for (std::int64_t r = 0; r < m; ++r) {
      for (std::int64_t c = 0; c < k; ++c)
        values[static_cast<std::size_t>(r * stride + c)] = float_to_bf16(random.normal());
    }
    view = TensorView::contiguous(values.data(), DType::kBF16, {m, k});
    view.strides[0] = stride;
  }
  double at(std::int64_t r, std::int64_t c) const {
    return static_cast<double>(bf16_to_float(values[static_cast<std::size_t>(r * view.stride(0) + c)]));
  }
  std::vector<std::uint16_t> values;  // NaN between the rows
  TensorView view;
};

// Added to what was there, twice; the upper triangle is nobody's.
TEST(SecondMoments, AddsSquaresOrTheLowerTriangle) {
  const std::int64_t m = 57, k = 133;
  const Input x(m, k, 140);
  Arena arena;
  Context context;
  context.arena = &arena;
  for (const int threads : {1, 2}) {
    set_thread_count(threads);
    std::vector<float> squares(static_cast<std::size_t>(k), 1.0f);
    std::vector<float> full(static_cast<std::size_t>(k * k), 2.0f);
    for (int i = 0; i < 2; ++i) {
      add_second_moments(context, x.view, TensorView::contiguous(squares.data(), DType::kF32, {k}));
      add_second_moments(context, x.view, TensorView::contiguous(full.data(), DType::kF32, {k, k}));
    }
    for (std::int64_t a = 0; a < k; ++a) {
      for (std::int64_t b = 0; b <= a; ++b) {
        double sum = 0;
        for (std::int64_t r = 0; r < m; ++r) sum += x.at(r, a) * x.at(r, b);
        EXPECT_NEAR(static_cast<double>(full[static_cast<std::size_t>(a * k + b)]), 2 + 2 * sum, 1e-3);
      }
      double sum = 0;
      for (std::int64_t r = 0; r < m; ++r) sum += x.at(r, a) * x.at(r, a);
      EXPECT_NEAR(static_cast<double>(squares[static_cast<std::size_t>(a)]), 1 + 2 * sum, 1e-3);
    }
    for (std::int64_t a = 0; a < k; ++a) {
      for (std::int64_t b = a + 1; b < k; ++b) ASSERT_EQ(full[static_cast<std::size_t>(a * k + b)], 2.0f);
    }
  }
  set_thread_count(0);
  EXPECT_LE(arena.peak(), static_cast<std::size_t>(second_moments_workspace(m, k, true)));
  EXPECT_EQ(second_moments_workspace(m, k, false), 0);
}

TEST(SecondMoments, NotANumberStaysOne) {
  const Input x(3, 4, 4);
  std::vector<std::uint16_t> values = x.values;
  values[6] = 0x7fc0;
  const TensorView view = TensorView::contiguous(values.data(), DType::kBF16, {3, 4});
  std::vector<float> squares(4, 0.0f);
  Arena arena;
  Context context;
  context.arena = &arena;
  add_second_moments(context, view, TensorView::contiguous(squares.data(), DType::kF32, {4}));
  EXPECT_TRUE(std::isnan(squares[2]));
  EXPECT_TRUE(std::isfinite(squares[1]));
}

}  // namespace
}  // namespace slidesparse
