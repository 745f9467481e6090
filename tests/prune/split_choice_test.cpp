#include "prune/split_choice.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "core/parallel.h"
#include "dense_oracle.h"

namespace slidesparse {
namespace {

using namespace testing_support;

// What 2:4 loses in the quads of perm: the two least of w^2 * saliency in each row and quad.
double plain_cost(const SplitShape& shape, const std::vector<std::int32_t>& perm, const std::vector<float>& w,
                  std::int64_t rows, const std::vector<float>& saliency) {
  double total = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t q = 0; q < shape.sparse; q += 4) {
      std::array<double, 4> costs{};
      for (std::size_t i = 0; i < 4; ++i) {
        const auto channel = static_cast<std::size_t>(perm[static_cast<std::size_t>(q) + i]);
        const auto value = static_cast<double>(w[static_cast<std::size_t>(r * shape.k) + channel]);
        costs[i] = value * value * (saliency.empty() ? 1.0 : static_cast<double>(saliency[channel]));
      }
      std::sort(costs.begin(), costs.end());
      total += costs[0] + costs[1];
    }
  }
  return total;
}

std::vector<float> random_saliency(std::int64_t k) {
  Random random(99);
  std::vector<float> saliency(static_cast<std::size_t>(k));
  for (float& value : saliency) value = 0.1f + random.uniform();
  return saliency;
}

TEST(ChooseSplit, GivesAPermutationWhoseCostIsWhatItSays) {
  const SplitShape shape = split_shape(Pattern::parse("6:8"), 200);
  ASSERT_EQ(shape.sparse, 64);
  const std::int64_t rows = 50;
  const std::vector<float> w = random_weights(rows * shape.k, 1);
  for (const auto& saliency : {std::vector<float>{}, random_saliency(shape.k)}) {
    const SplitChoice rule = choose_split(shape, w.data(), rows, shape.k, saliency, {0, 1024});
    validate_perm(shape, rule.perm, "rule");
    EXPECT_EQ(rule.rounds, 0);
    EXPECT_NEAR(rule.cost, plain_cost(shape, rule.perm, w, rows, saliency), 1e-4 * rule.cost);
    // The rule: no dense channel costs less in all than a sparse one.
    const auto total = [&](std::int32_t channel) {
      double sum = 0;
      for (std::int64_t r = 0; r < rows; ++r) {
        const auto value = static_cast<double>(w[static_cast<std::size_t>(r * shape.k + channel)]);
        sum += value * value *
               (saliency.empty() ? 1.0 : static_cast<double>(saliency[static_cast<std::size_t>(channel)]));
      }
      return sum;
    };
    const double most_sparse = total(rule.perm[static_cast<std::size_t>(shape.sparse - 1)]);
    for (std::size_t i = static_cast<std::size_t>(shape.sparse); i < rule.perm.size(); ++i)
      EXPECT_GE(total(rule.perm[i]), most_sparse);

    const SplitChoice choice = choose_split(shape, w.data(), rows, shape.k, saliency);
    validate_perm(shape, choice.perm, "choice");
    EXPECT_GT(choice.rounds, 0);
    EXPECT_EQ(choice.rule_cost, rule.cost);
    EXPECT_LT(choice.cost, rule.cost);
    EXPECT_NEAR(choice.cost, plain_cost(shape, choice.perm, w, rows, saliency), 1e-4 * choice.cost);
  }
}

// No exchange of two channels is left that helps by more than what the search calls nothing.
TEST(ChooseSplit, StopsWhereNoExchangeHelps) {
  const SplitShape shape = split_shape(Pattern::parse("8:10"), 160);
  ASSERT_EQ(shape.sparse, 64);
  const std::int64_t rows = 24;
  const std::vector<float> w = random_weights(rows * shape.k, 2);
  SplitChoice choice = choose_split(shape, w.data(), rows, shape.k, {}, {10'000, 1024});
  const double cost = plain_cost(shape, choice.perm, w, rows, {});
  for (std::int64_t a = 0; a < shape.sparse; ++a) {
    for (std::int64_t b = (a / 4 + 1) * 4; b < shape.k; ++b) {
      std::vector<std::int32_t> perm = choice.perm;
      std::swap(perm[static_cast<std::size_t>(a)], perm[static_cast<std::size_t>(b)]);
      EXPECT_GE(plain_cost(shape, perm, w, rows, {}), cost - 2e-4 * cost / static_cast<double>(shape.sparse));
    }
  }
}

// Channels that are large in different rows belong together: pairs that complement each other lose nothing.
TEST(ChooseSplit, FindsQuadsThatLoseNothing) {
  const SplitShape shape = split_shape(Pattern::parse("2:4"), 64);
  const std::int64_t rows = 64;
  std::vector<float> w(static_cast<std::size_t>(rows * shape.k), 0.0f);
  Random random(3);
  // Channel c is used in rows of one half only, even channels in one, odd ones in the other.
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < shape.k; ++c) {
      if (r % 2 == (c / 32) % 2) w[static_cast<std::size_t>(r * shape.k + c)] = 1.0f + random.uniform();
    }
  }
  const SplitChoice choice = choose_split(shape, w.data(), rows, shape.k, {});
  EXPECT_GE(choice.rule_cost, 0.0);
  EXPECT_EQ(choice.cost, 0.0);
  EXPECT_EQ(plain_cost(shape, choice.perm, w, rows, {}), 0.0);
}

TEST(ChooseSplit, DoesNotDependOnThreads) {
  const SplitShape shape = split_shape(Pattern::parse("4:6"), 192);
  const std::int64_t rows = 300;
  const std::vector<float> w = random_weights(rows * shape.k, 4);
  set_thread_count(1);
  const SplitChoice one = choose_split(shape, w.data(), rows, shape.k, {}, {50, 128});
  set_thread_count(2);
  const SplitChoice two = choose_split(shape, w.data(), rows, shape.k, {}, {50, 128});
  set_thread_count(0);
  EXPECT_EQ(one.perm, two.perm);
  EXPECT_EQ(one.cost, two.cost);
}

TEST(ChooseSplit, TakesWhatHasNoSparsePart) {
  const SplitShape shape = split_shape(Pattern::parse("6:8"), 40);
  ASSERT_EQ(shape.sparse, 0);
  const std::vector<float> w = random_weights(2 * shape.k, 5);
  const SplitChoice choice = choose_split(shape, w.data(), 2, shape.k, {});
  validate_perm(shape, choice.perm, "choice");
  EXPECT_EQ(choice.cost, 0.0);
}

}  // namespace
}  // namespace slidesparse
