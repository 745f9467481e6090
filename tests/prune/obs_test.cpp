#include "prune/obs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/linear_algebra.h"
#include "core/numeric.h"
#include "core/parallel.h"
#include "dense_oracle.h"
#include "prune/refit.h"
#include "quant/weights.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using namespace testing_support;
using ::testing::HasSubstr;

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();
constexpr double kDampening = 0.01;

double mean_diagonal(const std::vector<float>& moments, std::int64_t k) {
  double sum = 0;
  for (std::int64_t i = 0; i < k; ++i)
    sum += static_cast<double>(moments[static_cast<std::size_t>(i * k + i)]);
  return sum / static_cast<double>(k);
}

// With both triangles.
std::vector<float> mirrored(std::vector<float> moments, std::int64_t k) {
  mirror_lower(k, moments.data());
  return moments;
}

std::vector<std::int32_t> shuffled(std::int64_t k, std::uint64_t seed) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(k));
  std::iota(order.begin(), order.end(), 0);
  Random random(seed);
  for (std::int64_t i = k - 1; i > 0; --i)
    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(random.below(i + 1))]);
  return order;
}

TEST(FactorInverse, TimesItsTransposeIsTheInverseInTheGivenOrder) {
  const std::int64_t k = 37;
  const std::vector<float> moments = random_moments(k, 200, 1, kPoison);
  for (const auto& order : {std::vector<std::int32_t>{}, shuffled(k, 2)}) {
    const InverseFactor factor = factor_inverse(mirrored(moments, k), k, order, kDampening, "layer");
    EXPECT_EQ(factor.dampening, kDampening);
    EXPECT_EQ(factor.dead, 0);
    const Matrix h = full_matrix(moments, k, order, kDampening * mean_diagonal(moments, k));
    for (std::int64_t i = 0; i < k; ++i) {
      for (std::int64_t j = 0; j < i; ++j) EXPECT_EQ(factor.row(i)[j], 0.0f);
      std::vector<double> unit(static_cast<std::size_t>(k), 0.0);
      unit[static_cast<std::size_t>(i)] = 1;
      const std::vector<double> column = solve(h, unit);
      double largest = 0;
      for (const double value : column) largest = std::max(largest, std::abs(value));
      for (std::int64_t j = 0; j < k; ++j) {
        double got = 0;
        for (std::int64_t t = 0; t < k; ++t)
          got += static_cast<double>(factor.row(t)[i]) * static_cast<double>(factor.row(t)[j]);
        EXPECT_NEAR(got, column[static_cast<std::size_t>(j)], 1e-4 * largest) << i << "," << j;
      }
      EXPECT_NEAR(static_cast<double>(factor.saliency()[static_cast<std::size_t>(i)]),
                  1 / column[static_cast<std::size_t>(i)], 1e-3 / column[static_cast<std::size_t>(i)]);
    }
  }
}

TEST(FactorInverse, AddsMoreToAMatrixThatIsNotPositiveDefinite) {
  // Off-diagonals of 1.05: smallest eigenvalue -0.05; ten times the dampening makes it 0.05.
  const std::vector<float> moments{1, kPoison, 1.05f, 1};
  EXPECT_NEAR(factor_inverse(mirrored(moments, 2), 2, {}, 0.01, "layer").dampening, 0.1, 1e-12);
  const std::vector<float> hopeless{1, kPoison, 100, 1};
  try {
    factor_inverse(mirrored(hopeless, 2), 2, {}, 0.01, "model.layers.3.mlp.down");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("model.layers.3.mlp.down: the second moments"));
    EXPECT_THAT(error.what(), HasSubstr("not positive definite"));
  }
}

TEST(FactorInverse, CountsDeadChannelsAndRefusesWhatIsNoMoment) {
  std::vector<float> moments = random_moments(6, 50, 3, kPoison);
  for (std::size_t j = 0; j < 6; ++j) {
    if (j <= 4) moments[4 * 6 + j] = 0;
    if (j > 4) moments[j * 6 + 4] = 0;
  }
  EXPECT_EQ(factor_inverse(mirrored(moments, 6), 6, {}, kDampening, "layer").dead, 1);
  moments[2 * 6 + 2] = kPoison;
  EXPECT_THROW(factor_inverse(mirrored(moments, 6), 6, {}, kDampening, "layer"), Error);
  const std::vector<float> nothing(36, 0.0f);
  EXPECT_THROW(factor_inverse(nothing, 6, {}, kDampening, "layer"), Error);
}

// The rule, done plainly: for each group the pair whose removal costs least when all channels from the group
// on answer optimally; then they do.
double plain_surgery(const Matrix& h, int group, std::size_t pruned, std::vector<double>& w) {
  double total = 0;
  const std::size_t k = w.size();
  for (std::size_t first = 0; first < pruned; first += static_cast<std::size_t>(group)) {
    const std::size_t lanes = std::min(static_cast<std::size_t>(group), pruned - first);
    const std::size_t drop =
        lanes + 2 > static_cast<std::size_t>(group) ? lanes + 2 - static_cast<std::size_t>(group) : 0;
    double best = std::numeric_limits<double>::infinity();
    std::vector<double> best_step;
    std::pair<std::size_t, std::size_t> best_lanes;
    for (std::size_t a = first; a < first + lanes && drop > 0; ++a) {
      for (std::size_t b = drop == 1 ? a : a + 1; b < (drop == 1 ? a + 1 : first + lanes); ++b) {
        std::vector<bool> fixed(k, false);
        std::vector<double> required(k, 0.0);
        for (std::size_t i = 0; i < first; ++i) fixed[i] = true;
        for (const std::size_t lane : {a, b}) {
          fixed[lane] = true;
          required[lane] = -w[lane];
        }
        const std::vector<double> step = best_change(h, fixed, required);
        const double cost = cost_of(h, step);
        if (cost < best) {
          best = cost;
          best_step = step;
          best_lanes = {a, b};
        }
      }
    }
    if (best_step.empty()) continue;
    total += best;
    for (std::size_t i = 0; i < k; ++i) w[i] += best_step[i];
    w[best_lanes.first] = w[best_lanes.second] = 0;
  }
  return total;
}

TEST(ObsPrune, EqualsThePlainRule) {
  struct Case {
    int group;
    std::int64_t k, pruned;
  };
  for (const Case& c : {Case{4, 12, 12}, Case{6, 17, 17}, Case{8, 20, 20}, Case{8, 15, 15}, Case{4, 16, 8},
                        Case{10, 30, 30}, Case{16, 16, 16}}) {
    SCOPED_TRACE(testing::Message() << "group " << c.group << " k " << c.k << " pruned " << c.pruned);
    const std::vector<float> moments =
        random_moments(c.k, 4 * c.k, 7 + static_cast<std::uint64_t>(c.k), kPoison);
    const InverseFactor factor = factor_inverse(mirrored(moments, c.k), c.k, {}, kDampening, "layer");
    const Matrix h = full_matrix(moments, c.k, {}, kDampening * mean_diagonal(moments, c.k));
    const std::int64_t rows = 9;
    std::vector<float> w = random_weights(rows * c.k, 5);
    const std::vector<float> before = w;
    const double loss = obs_prune(factor, c.group, c.pruned, w.data(), rows, c.k);
    double want_loss = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      std::vector<double> row(before.begin() + r * c.k, before.begin() + (r + 1) * c.k);
      want_loss += plain_surgery(h, c.group, static_cast<std::size_t>(c.pruned), row);
      for (std::int64_t i = 0; i < c.k; ++i) {
        const float got = w[static_cast<std::size_t>(r * c.k + i)];
        EXPECT_NEAR(static_cast<double>(got), row[static_cast<std::size_t>(i)], 2e-3) << r << "," << i;
        EXPECT_EQ(got == 0.0f, row[static_cast<std::size_t>(i)] == 0.0) << r << "," << i;
      }
    }
    EXPECT_NEAR(loss, want_loss, 1e-3 * want_loss);
  }
}

TEST(ObsPrune, LeavesWhatObeysThePatternAlone) {
  const std::int64_t k = 24;
  const std::vector<float> moments = random_moments(k, 100, 11, kPoison);
  const InverseFactor factor = factor_inverse(mirrored(moments, k), k, {}, kDampening, "layer");
  std::vector<float> w = random_weights(3 * k, 12);
  for (std::size_t i = 0; i < w.size(); i += 8) w[i + 2] = w[i + 7] = 0.0f;
  const std::vector<float> before = w;
  EXPECT_EQ(obs_prune(factor, 8, k, w.data(), 3, k), 0.0);
  EXPECT_EQ(w, before);
}

// More columns than a block, a stride, and any number of threads: the same bits.
TEST(ObsPrune, DoesNotDependOnThreadsAndKeepsToItsRows) {
  const std::int64_t k = 300, ld = 310, rows = 7;
  const std::vector<float> moments = random_moments(k, 500, 13, kPoison);
  const InverseFactor factor = factor_inverse(mirrored(moments, k), k, {}, kDampening, "layer");
  const std::vector<float> before = random_weights(rows * ld, 14);
  std::vector<float> one = before, two = before;
  set_thread_count(1);
  obs_prune(factor, 10, k, one.data(), rows, ld);
  set_thread_count(2);
  obs_prune(factor, 10, k, two.data(), rows, ld);
  set_thread_count(0);
  EXPECT_EQ(one, two);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < k; i += 10) {
      const auto group = one.begin() + r * ld + i;
      EXPECT_GE(std::count(group, group + 10, 0.0f), 2);
    }
    for (std::int64_t i = k; i < ld; ++i)
      EXPECT_EQ(one[static_cast<std::size_t>(r * ld + i)], before[static_cast<std::size_t>(r * ld + i)]);
  }
}

// Weights with two zeros in each group of eight and a zero row at the end.
std::vector<float> pruned_weights(std::int64_t rows, std::int64_t k, std::uint64_t seed) {
  std::vector<float> w = random_weights(rows * k, seed);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < k; ++i) {
      if (i % 8 == (r + 2) % 8 || i % 8 == (r + 5) % 8 || r == rows - 1)
        w[static_cast<std::size_t>(r * k + i)] = 0;
    }
  }
  return w;
}

// One row: the codes of nearest values, but each channel's change is answered by all later ones.
std::vector<double> plain_rounding(const Matrix& h, std::vector<double> w) {
  const std::vector<double> before = w;
  std::size_t largest = 0;
  for (std::size_t i = 0; i < w.size(); ++i) {
    if (std::abs(w[i]) > std::abs(w[largest])) largest = i;
  }
  const auto bf16 = [](double value) { return bf16_to_float(float_to_bf16(static_cast<float>(value))); };
  const auto scale = static_cast<double>(bf16(static_cast<double>(bf16(std::abs(w[largest]))) / 448.0));
  if (scale == 0) return w;
  for (std::size_t c = 0; c < w.size(); ++c) {
    double code = static_cast<double>(e4m3_to_float(float_to_e4m3(static_cast<float>(w[c] / scale))));
    if (before[c] == 0) code = 0;
    if (c == largest) code = w[c] > 0 ? 448 : -448;
    std::vector<bool> fixed(w.size(), false);
    std::vector<double> required(w.size(), 0.0);
    for (std::size_t i = 0; i <= c; ++i) fixed[i] = true;
    required[c] = code * scale - w[c];
    const std::vector<double> step = best_change(h, fixed, required);
    for (std::size_t i = 0; i < w.size(); ++i) w[i] += step[i];
    w[c] = code * scale;
  }
  return w;
}

TEST(ObsRound, EqualsThePlainRule) {
  const std::int64_t k = 40, rows = 7;
  const std::vector<float> moments = random_moments(k, 4 * k, 19, kPoison);
  const auto order = shuffled(k, 20);
  const InverseFactor factor = factor_inverse(mirrored(moments, k), k, order, kDampening, "layer");
  const Matrix h = full_matrix(moments, k, order, kDampening * mean_diagonal(moments, k));
  const std::vector<float> before = pruned_weights(rows, k, 21);
  std::vector<float> w = before;
  obs_round(factor, w.data(), rows, k);
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::vector<double> want =
        plain_rounding(h, {before.begin() + r * k, before.begin() + (r + 1) * k});
    for (std::int64_t i = 0; i < k; ++i) {
      EXPECT_NEAR(static_cast<double>(w[static_cast<std::size_t>(r * k + i)]),
                  want[static_cast<std::size_t>(i)], 1e-6)
          << r << "," << i;
    }
  }
}

// More columns than a block, a stride, any number of threads.
TEST(ObsRound, GivesCodesThatQuantisingFindsAgainAndLosesLessThanTheNearest) {
  const std::int64_t k = 300, ld = 310, rows = 9;
  const std::vector<float> moments = random_moments(k, 700, 22, kPoison);
  const InverseFactor factor = factor_inverse(mirrored(moments, k), k, {}, kDampening, "layer");
  const std::vector<float> dense = pruned_weights(rows, k, 23);
  std::vector<float> w(static_cast<std::size_t>(rows * ld), 7.0f);
  for (std::int64_t r = 0; r < rows; ++r) std::copy_n(dense.begin() + r * k, k, w.begin() + r * ld);
  std::vector<float> one = w;
  set_thread_count(1);
  obs_round(factor, one.data(), rows, ld);
  set_thread_count(2);
  obs_round(factor, w.data(), rows, ld);
  set_thread_count(0);
  EXPECT_EQ(one, w);

  const auto quantise = [&](const std::vector<float>& values, std::int64_t stride) {
    std::vector<std::uint16_t> rounded(values.size());
    std::transform(values.begin(), values.end(), rounded.begin(), float_to_bf16);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(rows * k));
    std::vector<std::uint16_t> scales(static_cast<std::size_t>(rows));
    quantise_weight_rows(DType::kBF16, rounded.data(), rows, k, stride, DType::kF8E4M3, codes.data(),
                         scales.data());
    std::vector<float> result(codes.size());
    dequantise_weight_rows(DType::kF8E4M3, codes.data(), DType::kBF16, scales.data(), rows, k, result.data());
    return result;
  };
  const std::vector<float> found = quantise(w, ld), nearest = quantise(dense, k);
  const auto energy = [&](const std::vector<float>& values) {
    std::vector<float> change(values.size());
    std::transform(values.begin(), values.end(), dense.begin(), change.begin(), std::minus<>());
    return output_energy(moments, k, change.data(), rows);
  };
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < ld; ++i) {
      const float got = w[static_cast<std::size_t>(r * ld + i)];
      if (i >= k) {
        EXPECT_EQ(got, 7.0f);
        continue;
      }
      const auto at = static_cast<std::size_t>(r * k + i);
      // Scale and product are rounded to BF16 once more: 2^-8 each, where codes are 2^-4 apart.
      EXPECT_NEAR(found[at], got, 0x1p-6f * std::abs(got)) << r << "," << i;
      if (dense[at] == 0.0f) {
        EXPECT_EQ(got, 0.0f);
      }
    }
  }
  EXPECT_LT(energy(found), 0.7 * energy(nearest));
}

TEST(ObsRound, LeavesRowsAloneThatHaveNoScale) {
  const std::int64_t k = 16;
  const std::vector<float> moments = random_moments(k, 100, 24, kPoison);
  const InverseFactor factor = factor_inverse(mirrored(moments, k), k, {}, kDampening, "layer");
  std::vector<float> w(static_cast<std::size_t>(2 * k), 0.0f);
  w[static_cast<std::size_t>(k + 3)] = 1e-40f;
  const std::vector<float> before = w;
  obs_round(factor, w.data(), 2, k);
  EXPECT_EQ(w, before);
}

TEST(RefitWeights, EndsInTheLeastSquaresAnswerForTheWeightsThatAreLeft) {
  const std::int64_t k = 20, rows = 5;
  const std::vector<float> moments = random_moments(k, 100, 15, kPoison);
  const double added = kDampening * mean_diagonal(moments, k);
  const Matrix h = full_matrix(moments, k, {}, added);
  const std::vector<float> original = random_weights(rows * k, 16);
  std::vector<float> masked = original;
  for (std::size_t i = 0; i < masked.size(); ++i) {
    if (i % 8 == 1 || i % 8 == 4) masked[i] = 0;
  }
  const auto cost = [&](const std::vector<float>& w, std::int64_t r) {
    std::vector<double> change;
    for (std::int64_t i = r * k; i < (r + 1) * k; ++i)
      change.push_back(static_cast<double>(w[static_cast<std::size_t>(i)]) -
                       static_cast<double>(original[static_cast<std::size_t>(i)]));
    return cost_of(h, change);
  };
  std::vector<double> last(static_cast<std::size_t>(rows), std::numeric_limits<double>::infinity());
  for (const int steps : {0, 1, 2, 5, 10, 60}) {
    std::vector<float> w = masked;
    refit_weights(moments, added, k, original.data(), w.data(), rows, steps);
    for (std::int64_t r = 0; r < rows; ++r) {
      EXPECT_LE(cost(w, r), last[static_cast<std::size_t>(r)] * (1 + 1e-5)) << steps << " steps, row " << r;
      last[static_cast<std::size_t>(r)] = cost(w, r);
    }
    for (std::size_t i = 0; i < w.size(); ++i) EXPECT_EQ(w[i] == 0.0f, masked[i] == 0.0f);
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    std::vector<bool> fixed;
    std::vector<double> required;
    for (std::int64_t i = r * k; i < (r + 1) * k; ++i) {
      fixed.push_back(masked[static_cast<std::size_t>(i)] == 0.0f);
      required.push_back(-static_cast<double>(original[static_cast<std::size_t>(i)]));
    }
    const double least = cost_of(h, best_change(h, fixed, required));
    EXPECT_NEAR(last[static_cast<std::size_t>(r)], least, 1e-3 * least);
  }
}

TEST(OutputEnergy, IsTheQuadraticForm) {
  const std::int64_t k = 11, rows = 4;
  const std::vector<float> moments = random_moments(k, 40, 17, kPoison);
  const std::vector<float> w = random_weights(rows * k, 18);
  double want = 0;
  for (std::int64_t r = 0; r < rows; ++r)
    want += cost_of(full_matrix(moments, k, {}, 0), {w.begin() + r * k, w.begin() + (r + 1) * k});
  EXPECT_NEAR(output_energy(moments, k, w.data(), rows), want, 1e-5 * want);
}

}  // namespace
}  // namespace slidesparse
