#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <span>

#include "engine/alone.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using test::Sampler;

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
  EXPECT_EQ(Sampler({}).sample(std::vector<float>{-kInfinity, -2, kNan}), 1);
  EXPECT_EQ(Sampler({}).sample(std::vector<float>{-1, -0.0f, 0.0f}), 1);
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
  for (const double value : {-0.1, 1.1, std::nan("")})
    EXPECT_THROW(Sampler({.min_p = value}), Error) << value;
  for (const double value : {0.0, -1.0, 101.0, std::nan("")})
    EXPECT_THROW(Sampler({.repetition_penalty = value}), Error) << value;
  EXPECT_THROW(Sampler({}).sample(std::vector<float>{kNan, kNan}), Error);
  EXPECT_THROW(Sampler({.temperature = 1.0}).sample(std::vector<float>{kNan}), Error);
  EXPECT_THROW(Sampler({}).sample(std::vector<float>{-kInfinity, -kInfinity}), Error);
  EXPECT_THROW(Sampler({.temperature = 1.0}).sample(std::vector<float>{-kInfinity, kNan}), Error);
}

TEST(Sampler, PenaltyCountsPromptAndOutputOnce) {
  const std::vector<float> logits{4.0f, 3.0f, -1.0f, -1.5f};
  Sampler sampler({.repetition_penalty = 2.0});
  sampler.see(std::vector<std::int32_t>{2, 2, 40});
  EXPECT_EQ(sampler.sample(logits), 0);                                // then 2, 3, -2, -1.5
  EXPECT_EQ(sampler.sample(logits), 1);                                // then 2, 1.5, -2, -1.5
  EXPECT_EQ(sampler.sample(logits), 0);                                // once each: still 2
  EXPECT_EQ(sampler.sample(std::vector<float>{-9, -9, -1, -1.5}), 3);  // -18, -18, -2, -1.5
  EXPECT_EQ(Sampler({.repetition_penalty = 0.5}).sample(logits), 0);
  Sampler liking({.repetition_penalty = 0.5});
  liking.see(std::vector<std::int32_t>{1});
  EXPECT_EQ(liking.sample(logits), 1);  // 3 / 0.5
}

TEST(Sampler, MinPCutsAtAShareOfTheLikeliest) {
  const std::vector<float> logits{std::log(10.0f), std::log(4.0f), std::log(2.0f), std::log(1.0f)};
  EXPECT_EQ(draw({.temperature = 1.0, .min_p = 0.3}, logits, 2000).size(), 2u);
  EXPECT_EQ(draw({.temperature = 1.0, .min_p = 0.05}, logits, 2000).size(), 4u);
  EXPECT_EQ(draw({.temperature = 1.0, .min_p = 1.0}, logits, 100).size(), 1u);
  // At temperature 0.5 the shares are squared.
  EXPECT_EQ(draw({.temperature = 0.5, .min_p = 0.1}, logits, 2000).size(), 2u);
}

std::vector<float> normal_logits(std::int64_t vocab, std::uint64_t seed, float scale) {
  Random random(seed);
  std::vector<float> logits(static_cast<std::size_t>(vocab));
  for (float& x : logits) x = random.normal() * scale;
  return logits;
}

TEST(Sampler, TopKOneAndTinyTopPAreGreedy) {
  for (const std::int64_t vocab : {1, 31, 5000}) {
    const std::vector<float> logits = normal_logits(vocab, 5, 3.0f);
    const std::int32_t greedy = Sampler({}).sample(logits);
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      EXPECT_EQ(Sampler({.temperature = 3.0, .top_k = 1, .seed = seed}).sample(logits), greedy);
      EXPECT_EQ(Sampler({.temperature = 3.0, .top_p = 1e-9, .seed = seed}).sample(logits), greedy);
      EXPECT_EQ(Sampler({.temperature = 1e-6, .seed = seed}).sample(logits), greedy);
    }
  }
}

TEST(Sampler, GoesOnAtAnIndex) {
  const std::vector<float> logits = normal_logits(300, 6, 1.0f);
  const SamplingOptions options{.temperature = 1.0, .repetition_penalty = 1.3, .seed = 9};
  Sampler whole(options);
  std::vector<std::int32_t> tokens;
  tokens.reserve(12);
  for (int i = 0; i < 12; ++i) tokens.push_back(whole.sample(logits));
  Sampler rest(options, 5);
  rest.see(std::span(tokens).first(5));
  for (std::size_t i = 5; i < tokens.size(); ++i) EXPECT_EQ(rest.sample(logits), tokens[i]) << i;
}

// Pearson's statistic of draws against probabilities in FP64, over tokens that are expected at least 10
// times, and the rest together.
TEST(Sampler, DrawsPassAChiSquareTest) {
  struct Case {
    SamplingOptions options;
    float scale;
  };
  const Case cases[] = {{{.temperature = 1.0, .seed = 1}, 1.0f},
                        {{.temperature = 0.7, .seed = 2}, 2.0f},
                        {{.temperature = 1.5, .top_k = 40, .seed = 3}, 2.0f},
                        {{.temperature = 1.0, .top_p = 0.8, .seed = 4}, 1.5f},
                        {{.temperature = 1.0, .top_k = 100, .top_p = 0.9, .min_p = 0.02, .seed = 5}, 1.5f}};
  constexpr int kDraws = 40000;
  constexpr std::int64_t kVocab = 257;
  for (const Case& c : cases) {
    const std::vector<float> logits = normal_logits(kVocab, c.options.seed, c.scale);
    std::vector<std::size_t> order(kVocab);
    std::iota(order.begin(), order.end(), 0u);
    std::ranges::sort(order, [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
    std::vector<double> p(kVocab);
    const auto normalise = [&](std::size_t count) {
      const double sum = std::accumulate(p.begin(), p.begin() + static_cast<std::ptrdiff_t>(count), 0.0);
      for (std::size_t i = 0; i < p.size(); ++i) p[i] = i < count ? p[i] / sum : 0.0;
    };
    for (std::size_t i = 0; i < p.size(); ++i) {
      p[i] = std::exp((logits[order[i]] - logits[order[0]]) / c.options.temperature);
      if (p[i] < c.options.min_p) p[i] = 0;
    }
    normalise(c.options.top_k == 0 ? p.size() : static_cast<std::size_t>(c.options.top_k));
    std::size_t count = 0;
    for (double sum = 0; count < p.size() && sum < c.options.top_p; ++count) sum += p[count];
    normalise(count);

    const auto counts = draw(c.options, logits, kDraws);
    double statistic = 0, rest = 0, rest_wanted = 0;
    int freedom = -1;
    const auto enter = [&](double got, double wanted) {
      statistic += (got - wanted) * (got - wanted) / wanted;
      ++freedom;
    };
    for (std::size_t i = 0; i < p.size(); ++i) {
      const auto at = counts.find(static_cast<std::int32_t>(order[i]));
      const double got = at == counts.end() ? 0 : at->second;
      if (p[i] == 0.0) {
        EXPECT_EQ(got, 0) << "token " << order[i] << " was cut";
      } else if (p[i] * kDraws >= 10) {
        enter(got, p[i] * kDraws);
      } else {
        rest += got;
        rest_wanted += p[i] * kDraws;
      }
    }
    if (rest_wanted >= 10) enter(rest, rest_wanted);
    // Four standard deviations above the mean of the distribution.
    EXPECT_LT(statistic, freedom + 4 * std::sqrt(2.0 * freedom)) << c.options.seed;
    EXPECT_GT(statistic, freedom - 4 * std::sqrt(2.0 * freedom)) << c.options.seed;
    EXPECT_GT(freedom, 10);
  }
}

TEST(Sampler, LogprobsAreTheLogSoftmax) {
  const std::vector<float> logits = normal_logits(5000, 8, 4.0f);
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x));
  for (const std::int32_t id : {0, 17, 4999}) {
    EXPECT_NEAR(token_logprob(logits, id), logits[static_cast<std::size_t>(id)] - std::log(sum), 2e-6);
  }
  const std::vector<TokenLogprob> top = top_logprobs(logits, 20);
  ASSERT_EQ(top.size(), 20u);
  EXPECT_EQ(top[0].id, Sampler({}).sample(logits));
  for (std::size_t i = 0; i < top.size(); ++i) {
    EXPECT_EQ(top[i].logprob, token_logprob(logits, top[i].id));
    if (i > 0) {
      EXPECT_LE(top[i].logprob, top[i - 1].logprob);
    }
  }
  EXPECT_EQ(token_logprob(logits, -1), -kInfinity);
  const std::vector<TokenLogprob> few = top_logprobs(std::vector<float>{kNan, 1, -kInfinity, 1}, 3);
  ASSERT_EQ(few.size(), 2u);
  EXPECT_EQ(few[0].id, 1);
  EXPECT_EQ(few[1].id, 3);
  EXPECT_NEAR(few[1].logprob, -std::log(2.0), 1e-7);
  EXPECT_NEAR(token_logprob(std::vector<float>{kInfinity, 0, kInfinity}, 2), -std::log(2.0), 1e-7);
  EXPECT_EQ(token_logprob(std::vector<float>{kInfinity, 0, kInfinity}, 1), -kInfinity);
}

TEST(SampleRules, RanksOrderLogitsAndThenIds) {
  const float ascending[] = {std::numeric_limits<float>::lowest(), -1, -1e-45f, 0, 1e-45f, 1, kInfinity};
  for (std::size_t i = 0; i < std::size(ascending); ++i) {
    EXPECT_EQ(ranked_logit(ranked(ascending[i], 3)), ascending[i]);
    EXPECT_EQ(ranked_id(ranked(ascending[i], 3)), 3);
    EXPECT_GT(ranked(ascending[i], 3), ranked(ascending[i], 4));
    if (i > 0) {
      EXPECT_GT(ranked(ascending[i], 9), ranked(ascending[i - 1], 0));
    }
  }
  EXPECT_EQ(ranked(-0.0f, 1), ranked(0.0f, 1));
  EXPECT_EQ(ranked(-kInfinity, 0), 0u);
  EXPECT_EQ(ranked(kNan, 0), 0u);
  EXPECT_EQ(ranked_id(0), -1);
}

TEST(SampleRules, DrawIsTheProductsUpperHalf) {
  SampleRow row;
  for (std::uint64_t i = 0; i < 2000; ++i) {
    row.seed = i;
    row.index = 3 * i;
    const std::uint64_t sum = random_bits(99, i) >> (1 + i % 40);
    const std::uint64_t drawn = drawn_weight(row, sum);
    ASSERT_LE(drawn, sum);
    // u has random_uniform's 24 bits and more.
    const long double u = random_uniform(row.seed, row.index);
    ASSERT_GE(static_cast<long double>(drawn) + 1, u * static_cast<long double>(sum));
    ASSERT_LE(static_cast<long double>(drawn), (u + 0x1p-24L) * static_cast<long double>(sum));
  }
  __extension__ using Wide = unsigned __int128;
  const std::uint64_t sum = 0x7edcba9876543211u;
  row = {.seed = 12, .index = 34};
  EXPECT_EQ(drawn_weight(row, sum), static_cast<std::uint64_t>(Wide{sum} * random_bits(12, 34) >> 64));
}

}  // namespace
}  // namespace slidesparse
