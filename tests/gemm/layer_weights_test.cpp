#include "gemm/layer_weights.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/fail.h"
#include "gemm/random_problem.h"

namespace slidesparse {
namespace {

GemmDesc problem(std::int64_t n, Pattern pattern, bool bias, DType dtype = DType::kI8) {
  GemmDesc desc;
  desc.m = 1;
  desc.n = n;
  desc.k = 203;  // a tail in every pattern
  desc.x = desc.w = dtype;
  desc.pattern = pattern;
  desc.layout = pattern.is_dense() ? Layout::kDense : Layout::kPacked;
  desc.bias = bias;
  desc.bias_dtype = DType::kBF16;
  return desc;
}

class Joined : public testing::TestWithParam<DType> {};

// Whatever row is looked at: the joined matrix multiplies as its parts do.
TEST_P(Joined, GivesTheOutputsOfItsParts) {
  for (const Pattern pattern : {Pattern(), Pattern::of_half_group(4), Pattern::of_half_group(5)}) {
    const LayerWeights first = LayerWeights::random(problem(7, pattern, true, GetParam()), 1);
    const LayerWeights second = LayerWeights::random(problem(5, pattern, true, GetParam()), 2);
    const WeightSource members[] = {first.source(0, 0, 7), second.source(0, 0, 5)};
    const GemmDesc desc = problem(12, pattern, true, GetParam());
    const LayerWeights joined = LayerWeights::joined(desc, members, 3);
    EXPECT_EQ(joined.copies(), 3);
    std::vector<std::byte> x(static_cast<std::size_t>(2 * desc.k));
    fill_random_values(GetParam(), x.data(), desc.k, 9);
    for (std::int64_t n = 0; n < 12; ++n) {
      const WeightSource part = n < 7 ? first.source(0, n, 1) : second.source(0, n - 7, 1);
      const float expected = reference_output(desc, part, x.data(), 0.5f);
      for (const std::int64_t copy : {0, 2})
        EXPECT_EQ(reference_output(desc, joined.source(copy, n, 1), x.data(), 0.5f), expected) << n;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Types, Joined, testing::Values(DType::kI8, DType::kF8E4M3, DType::kBF16),
                         [](const auto& which) { return std::string(dtype_name(which.param)); });

// Rows in another order, values, codes, scales and bias alike.
TEST_P(Joined, TakesRowsInAnOrder) {
  const std::vector<std::int32_t> order{3, 0, 4, 1, 2};
  for (const Pattern pattern : {Pattern(), Pattern::of_half_group(4)}) {
    const LayerWeights first = LayerWeights::random(problem(5, pattern, true, GetParam()), 1);
    const LayerWeights second = LayerWeights::random(problem(5, pattern, true, GetParam()), 2);
    const WeightSource members[] = {first.source(0, 0, 5), second.source(0, 0, 5)};
    const GemmDesc desc = problem(10, pattern, true, GetParam());
    const LayerWeights joined = LayerWeights::joined(desc, members, 1, order);
    std::vector<std::byte> x(static_cast<std::size_t>(2 * desc.k));
    fill_random_values(GetParam(), x.data(), desc.k, 9);
    for (std::int64_t n = 0; n < 10; ++n) {
      const std::int64_t from = order[static_cast<std::size_t>(n % 5)];
      const WeightSource part = n < 5 ? first.source(0, from, 1) : second.source(0, from, 1);
      EXPECT_EQ(reference_output(desc, joined.source(0, n, 1), x.data(), 0.5f),
                reference_output(desc, part, x.data(), 0.5f))
          << n;
    }
    EXPECT_THROW(LayerWeights::joined(desc, members, 1, std::span(order).first(4)), Error);
  }
}

TEST(LayerWeights, ScalesAndBiasOfAnyTypeAndOfSomePartsOnly) {
  const GemmDesc one = problem(2, Pattern(), false);
  const LayerWeights plain = LayerWeights::random(one, 1);
  const float bias[] = {0.25f, 1.0f + 0x1p-20f};
  const std::uint16_t scales[] = {0x3f80, 0x4000};  // BF16: 1, 2
  WeightSource with_bias = plain.source(0, 0, 2);
  with_bias.bias = bias;
  with_bias.bias_dtype = DType::kF32;
  with_bias.scales = scales;
  with_bias.scale_dtype = DType::kBF16;
  const WeightSource members[] = {plain.source(0, 0, 2), with_bias};
  GemmDesc desc = problem(4, Pattern(), true);
  desc.bias_dtype = DType::kF32;
  const LayerWeights joined = LayerWeights::joined(desc, members);
  const WeightSource source = joined.source(0, 0, 4);
  ASSERT_EQ(source.bias_dtype, DType::kF32);
  const auto* got = static_cast<const float*>(source.bias);
  EXPECT_EQ(got[0], 0);
  EXPECT_EQ(got[2], bias[0]);
  EXPECT_EQ(got[3], bias[1]);
  ASSERT_EQ(source.scale_dtype, DType::kF32);
  EXPECT_EQ(static_cast<const float*>(source.scales)[3], 2);
}

TEST(LayerWeights, PartsThatDoNotFitAreRefused) {
  const LayerWeights dense = LayerWeights::random(problem(2, Pattern(), false), 1);
  const LayerWeights sparse = LayerWeights::random(problem(2, Pattern::of_half_group(4), false), 1);
  const WeightSource mixed[] = {dense.source(0, 0, 2), sparse.source(0, 0, 2)};
  EXPECT_THROW(LayerWeights::joined(problem(4, Pattern(), false), mixed), Error);
  const WeightSource few[] = {dense.source(0, 0, 2)};
  EXPECT_THROW(LayerWeights::joined(problem(4, Pattern(), false), few), Error);
}

}  // namespace
}  // namespace slidesparse
