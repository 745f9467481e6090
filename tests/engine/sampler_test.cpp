#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::map<std::int32_t, int> draw(const SamplingOptions& options, const std::vector<float>& logits,
                                 int times) {
  Sampler sampler(options);
  std::map<std::int32_t, int> counts;
  for (int i = 0; i < times; ++i) ++counts[sampler.sample(logits)];
  return counts;
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowestOfEquals) {
  EXPECT_EQ(Sampler({}).sample(std::vector<float>{1, 5, 3}), 1);
  EXPECT_EQ(Sampler({}).sample(std::vector<float>{2, 5, 5}), 1);
  EXPECT_EQ(Sampler({}).sample(std::vector<float>{kNan, -2, kNan}), 1);
  EXPECT_EQ(Sampler({}).sample(std::vector<float>{-kInfinity, -kInfinity}), 0);
  EXPECT_EQ(Sampler({.temperature = 5, .top_k = 1}).sample(std::vector<float>{0, 1, 0}), 1);
}

TEST(Sampler, FollowsTheSoftmax) {
  const std::vector<float> logits{0.0f, std::log(2.0f), std::log(5.0f), kNan};
  const auto counts = draw({.temperature = 1.0, .seed = 3}, logits, 80000);
  EXPECT_NEAR(counts.at(0), 10000, 400);
  EXPECT_NEAR(counts.at(1), 20000, 500);
  EXPECT_NEAR(counts.at(2), 50000, 600);
  EXPECT_EQ(counts.count(3), 0u);
  // Temperature 0.5 squares the odds: 1 : 4 : 25.
  EXPECT_NEAR(draw({.temperature = 0.5, .seed = 3}, logits, 30000).at(1), 4000, 300);
}

TEST(Sampler, TopKAndTopPCut) {
  const std::vector<float> logits{std::log(1.0f), std::log(4.0f), std::log(3.0f), std::log(2.0f)};
  const auto two = draw({.temperature = 1.0, .top_k = 2, .seed = 1}, logits, 7000);
  EXPECT_EQ(two.size(), 2u);
  EXPECT_NEAR(two.at(1), 4000, 200);
  EXPECT_NEAR(two.at(2), 3000, 200);
  EXPECT_EQ(draw({.temperature = 1.0, .top_p = 0.39, .seed = 1}, logits, 500).size(), 1u);
  EXPECT_EQ(draw({.temperature = 1.0, .top_p = 0.41, .seed = 1}, logits, 500).size(), 2u);
  EXPECT_EQ(draw({.temperature = 1.0, .top_p = 1e-9, .seed = 1}, logits, 50).size(), 1u);
  EXPECT_EQ(draw({.temperature = 1.0, .top_k = 100, .seed = 1}, logits, 5000).size(), 4u);
}

TEST(Sampler, SeedDecides) {
  std::vector<float> logits(1000, 0.0f);
  const auto sequence = [&](std::uint64_t seed) {
    Sampler sampler({.temperature = 1.0, .seed = seed});
    std::vector<std::int32_t> tokens;
    tokens.reserve(20);
    for (int i = 0; i < 20; ++i) tokens.push_back(sampler.sample(logits));
    return tokens;
  };
  EXPECT_EQ(sequence(7), sequence(7));
  EXPECT_NE(sequence(7), sequence(8));
}

TEST(Sampler, InfiniteLogits) {
  const std::vector<float> logits{1.0f, kInfinity, 2.0f, kInfinity};
  const auto counts = draw({.temperature = 1.0, .seed = 1}, logits, 1000);
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_EQ(counts.count(1) + counts.count(3), 2u);
}

TEST(Sampler, RefusesNonsense) {
  for (const double value : {-0.1, std::nan(""), 1e300, HUGE_VAL}) {
    EXPECT_THROW(Sampler({.temperature = value}), Error) << value;
  }
  for (const double value : {0.0, -1.0, 1.5, std::nan("")})
    EXPECT_THROW(Sampler({.top_p = value}), Error) << value;
  EXPECT_THROW(Sampler({.top_k = -1}), Error);
  EXPECT_THROW(Sampler({}).sample(std::vector<float>{kNan, kNan}), Error);
  EXPECT_THROW(Sampler({.temperature = 1.0}).sample(std::vector<float>{kNan}), Error);
}

}  // namespace
}  // namespace slidesparse
