#include "prune/group_prune.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "dense_oracle.h"
#include "prune/prune.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using namespace testing_support;
using ::testing::HasSubstr;

GroupPrune options(PruneMethod method, const char* pattern, bool split = false) {
  GroupPrune prune;
  prune.method = method;
  prune.pattern = Pattern::parse(pattern);
  prune.split = split;
  return prune;
}

std::vector<float> diagonal(const std::vector<float>& moments, std::int64_t k) {
  std::vector<float> result;
  for (std::int64_t i = 0; i < k; ++i) result.push_back(moments[static_cast<std::size_t>(i * k + i)]);
  return result;
}

std::vector<float> moments_for(PruneMethod method, std::int64_t k) {
  const std::vector<float> full = random_moments(k, 4 * k, 21, 0.0f);
  if (method == PruneMethod::kMagnitude) return {};
  return method == PruneMethod::kWanda ? diagonal(full, k) : full;
}

// Non-zeros of each group of `group` channels in the order of perm, the first `pruned` channels.
void expect_pattern(const std::vector<float>& w, std::int64_t rows, std::int64_t k,
                    const std::vector<std::int32_t>& perm, int group, std::int64_t pruned) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t first = 0; first < pruned; first += group) {
      int used = 0;
      for (std::int64_t i = first; i < std::min(first + group, pruned); ++i) {
        const std::int64_t channel = perm.empty() ? i : perm[static_cast<std::size_t>(i)];
        used += w[static_cast<std::size_t>(r * k + channel)] != 0.0f ? 1 : 0;
      }
      ASSERT_LE(used, group - 2) << "row " << r << " at " << first;
    }
  }
}

TEST(PruneGroup, ObeysThePatternInEveryMethodAndLayout) {
  const std::int64_t k = 202, rows = 13;
  for (const PruneMethod method : {PruneMethod::kMagnitude, PruneMethod::kWanda, PruneMethod::kSparseGpt}) {
    for (const char* pattern : {"2:4", "4:6", "6:8", "8:10", "10:12", "12:14", "14:16"}) {
      for (const bool split : {false, true}) {
        SCOPED_TRACE(testing::Message() << prune_method_name(method) << " " << pattern << " split " << split);
        std::vector<float> w = random_weights(rows * k, 22);
        const GroupPrune prune = options(method, pattern, split);
        std::vector<float> moments = moments_for(method, k);
        const GroupPruneResult result = prune_group(prune, w.data(), rows, k, moments, "group");
        if (split) {
          const SplitShape shape = split_shape(prune.pattern, k);
          validate_perm(shape, result.perm, "perm");
          expect_pattern(w, rows, k, result.perm, 4, shape.sparse);
        } else {
          EXPECT_TRUE(result.perm.empty());
          expect_pattern(w, rows, k, {}, prune.pattern.group(), k);
        }
        EXPECT_EQ(result.error < 0, method == PruneMethod::kMagnitude);
        EXPECT_LE(result.error, result.error_masked * (method == PruneMethod::kSparseGpt ? 0.9 : 1));
      }
    }
  }
}

TEST(PruneGroup, MagnitudeIsTheOneOfRows) {
  const std::int64_t k = 83, rows = 40;
  std::vector<float> w = random_weights(rows * k, 23);
  std::vector<float> want = w;
  prune_rows(Pattern::parse("8:10"), PruneMethod::kMagnitude, DType::kF32, want.data(), rows, k, k);
  prune_group(options(PruneMethod::kMagnitude, "8:10"), w.data(), rows, k, {}, "group");
  EXPECT_EQ(w, want);
}

TEST(PruneGroup, WandaKeepsTheLargestWeightTimesNorm) {
  // |w| falls, the inputs' norms rise: 4 * 1, 3 * 2, 2 * 3, 1 * 4.5.
  std::vector<float> w{4, -3, 2, -1};
  std::vector<float> moments{1, 4, 9, 20.25f};
  const GroupPruneResult result =
      prune_group(options(PruneMethod::kWanda, "2:4"), w.data(), 1, 4, moments, "group");
  EXPECT_EQ(w, (std::vector<float>{0, -3, 2, 0}));
  // 16 + 20.25 of 16 + 36 + 36 + 20.25.
  EXPECT_NEAR(result.error, 36.25 / 108.25, 1e-6);
  EXPECT_EQ(result.error, result.error_masked);
  EXPECT_EQ(result.dead, 0);

  // A channel that is always zero costs nothing; among such, the smaller weight goes, then the lower lane.
  w = {5, 1, 1, 1};
  moments = {0, 0, 0, 1};
  prune_group(options(PruneMethod::kWanda, "2:4"), w.data(), 1, 4, moments, "group");
  EXPECT_EQ(w, (std::vector<float>{5, 0, 0, 1}));
}

TEST(PruneGroup, SurgeryLosesLessThanWandaWhichLosesLessThanMagnitude) {
  const std::int64_t k = 160, rows = 64;
  const std::vector<float> moments = random_moments(k, 800, 24, 0.0f);
  std::vector<float> scaled = moments;  // channels of very different sizes
  for (std::int64_t i = 0; i < k; ++i) {
    for (std::int64_t j = 0; j <= i; ++j)
      scaled[static_cast<std::size_t>(i * k + j)] *= static_cast<float>((1 + i % 7) * (1 + j % 7));
  }
  const Matrix h = full_matrix(scaled, k, {}, 0);
  const std::vector<float> before = random_weights(rows * k, 25);
  const auto loss = [&](PruneMethod method) {
    std::vector<float> w = before;
    std::vector<float> given = method == PruneMethod::kMagnitude ? std::vector<float>{}
                               : method == PruneMethod::kWanda   ? diagonal(scaled, k)
                                                                 : scaled;
    prune_group(options(method, "6:8"), w.data(), rows, k, given, "group");
    double total = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      std::vector<double> change;
      for (std::int64_t i = r * k; i < (r + 1) * k; ++i)
        change.push_back(static_cast<double>(w[static_cast<std::size_t>(i)]) -
                         static_cast<double>(before[static_cast<std::size_t>(i)]));
      total += cost_of(h, change);
    }
    return total;
  };
  const double magnitude = loss(PruneMethod::kMagnitude);
  const double wanda = loss(PruneMethod::kWanda);
  const double surgery = loss(PruneMethod::kSparseGpt);
  EXPECT_LT(wanda, magnitude);
  EXPECT_LT(surgery, 0.7 * wanda);
}

TEST(PruneGroup, RefusesWhatIsNotFinite) {
  const auto message = [](PruneMethod method, std::vector<float> moments, float weight) {
    std::vector<float> w(12, 1.0f);
    w[7] = weight;
    try {
      prune_group(options(method, "2:4"), w.data(), 3, 4, moments, "model.layers.2.mlp.down");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(message(PruneMethod::kMagnitude, {}, nan),
              HasSubstr("model.layers.2.mlp.down: the weight at row 1, column 3 is nan"));
  EXPECT_THAT(message(PruneMethod::kWanda, {1, 1, nan, 1}, 1),
              HasSubstr("second moment of input channel 2 is nan"));
  EXPECT_THAT(message(PruneMethod::kWanda, {1, -1, 1, 1}, 1),
              HasSubstr("second moment of input channel 1 is -1"));
}

}  // namespace
}  // namespace slidesparse
