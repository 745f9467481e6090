#include "prune/group_prune.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/fail.h"
#include "core/linear_algebra.h"
#include "core/parallel.h"
#include "core/text.h"
#include "prune/obs.h"
#include "prune/refit.h"

namespace slidesparse {
namespace {

// Rows that errors are computed on: two products with H as large as the pruning itself otherwise.
constexpr std::int64_t kErrorRows = 256;

// Where the channels stand while they are pruned, and how they are grouped there.
struct Order {
  std::vector<std::int32_t> perm;  // empty: as they are
  int group = 0;
  std::int64_t pruned = 0;  // channels that belong to groups; the rest is dense
};

// w [rows, k]: column j comes from (or goes back to) column perm[j].
void permute(std::span<const std::int32_t> perm, float* w, std::int64_t rows, std::int64_t k, bool back) {
  if (perm.empty()) return;
  parallel_for(rows, 4, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> line(static_cast<std::size_t>(k));
    for (std::int64_t r = begin; r < end; ++r) {
      float* row = w + r * k;
      for (std::size_t j = 0; j < perm.size(); ++j) {
        if (back) {
          line[static_cast<std::size_t>(perm[j])] = row[j];
        } else {
          line[j] = row[perm[j]];
        }
      }
      std::copy(line.begin(), line.end(), row);
    }
  });
}

Order order_of(const GroupPrune& prune, const float* w, std::int64_t rows, std::int64_t k,
               std::span<const float> saliency) {
  if (!prune.split) return {{}, prune.pattern.group(), k};
  const SplitShape shape = split_shape(prune.pattern, k);
  return {choose_split(shape, w, rows, k, saliency, prune.search).perm, 4, shape.sparse};
}

// Sets to +0 in each group the two weights of least w^2 * saliency (as many as exceed group - 2 in a tail).
// Ties: the smaller |w|, then the lower lane. w is in the order of `order`, saliency in that of the channels.
void drop_least(const Order& order, std::span<const float> saliency, float* w, std::int64_t rows,
                std::int64_t k) {
  struct Lane {
    float cost;
    float magnitude;
    int lane;
  };
  parallel_for(rows, 4, [&](std::int64_t begin, std::int64_t end) {
    std::vector<Lane> lanes;
    for (std::int64_t r = begin; r < end; ++r) {
      for (std::int64_t first = 0; first < order.pruned; first += order.group) {
        const auto count = static_cast<int>(std::min<std::int64_t>(order.group, order.pruned - first));
        const int drop = std::max(0, count - (order.group - 2));
        float* group = w + r * k + first;
        lanes.clear();
        for (int i = 0; i < count; ++i) {
          const std::int64_t channel =
              order.perm.empty() ? first + i : order.perm[static_cast<std::size_t>(first + i)];
          const float weight = saliency.empty() ? 1.0f : saliency[static_cast<std::size_t>(channel)];
          lanes.push_back({group[i] * group[i] * weight, std::abs(group[i]), i});
        }
        std::partial_sort(lanes.begin(), lanes.begin() + drop, lanes.end(), [](const Lane& a, const Lane& b) {
          if (a.cost != b.cost) return a.cost < b.cost;
          if (a.magnitude != b.magnitude) return a.magnitude < b.magnitude;
          return a.lane < b.lane;
        });
        for (int i = 0; i < drop; ++i) group[lanes[static_cast<std::size_t>(i)].lane] = 0.0f;
      }
    }
  });
}

// Relative change of the outputs with uncorrelated inputs.
double diagonal_error(std::span<const float> moments, const float* original, const float* w,
                      std::int64_t rows, std::int64_t k) {
  double change = 0;
  double whole = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < k; ++c) {
      const auto weight = static_cast<double>(moments[static_cast<std::size_t>(c)]);
      const auto before = static_cast<double>(original[r * k + c]);
      const double difference = static_cast<double>(w[r * k + c]) - before;
      change += difference * difference * weight;
      whole += before * before * weight;
    }
  }
  return whole > 0 ? change / whole : 0;
}

// The relative change of the outputs of some rows, evenly spread.
class OutputError {
 public:
  OutputError(std::span<const float> moments, const float* original, std::int64_t rows, std::int64_t k)
      : moments_(moments), rows_(rows), k_(k), count_(std::min(rows, kErrorRows)) {
    before_ = pick(original);
    whole_ = output_energy(moments_, k_, before_.data(), count_);
  }

  // With the weights w, or, when `masked`, with the original ones where w is not zero.
  double of(const float* w, bool masked) const {
    std::vector<float> change = pick(w);
    for (std::size_t i = 0; i < change.size(); ++i)
      change[i] = masked ? (change[i] == 0.0f ? before_[i] : 0.0f) : change[i] - before_[i];
    // Moments of few inputs leave sums of nearly equal parts: rounding can carry one below zero.
    return whole_ > 0 ? std::max(0.0, output_energy(moments_, k_, change.data(), count_) / whole_) : 0;
  }

 private:
  std::vector<float> pick(const float* w) const {
    std::vector<float> picked(static_cast<std::size_t>(count_ * k_));
    for (std::int64_t i = 0; i < count_; ++i)
      std::copy_n(w + i * rows_ / count_ * k_, k_, picked.begin() + i * k_);
    return picked;
  }

  std::span<const float> moments_;
  std::int64_t rows_, k_, count_;
  std::vector<float> before_;
  double whole_ = 0;
};

GroupPruneResult prune_by_cost(const GroupPrune& prune, float* w, std::int64_t rows, std::int64_t k,
                               std::span<const float> moments, const std::string& what) {
  for (std::size_t c = 0; c < moments.size(); ++c) {
    if (std::isfinite(moments[c]) && moments[c] >= 0) continue;
    fail_input(
        "{}: the second moment of input channel {} is {}; calibration met activations that are not "
        "finite",
        printable(what), c, moments[c]);
  }
  GroupPruneResult result;
  std::vector<float> original;
  if (!moments.empty()) original.assign(w, w + rows * k);
  const Order order = order_of(prune, w, rows, k, moments);
  permute(order.perm, w, rows, k, false);
  drop_least(order, moments, w, rows, k);
  permute(order.perm, w, rows, k, true);
  if (!moments.empty()) {
    result.error = result.error_masked = diagonal_error(moments, original.data(), w, rows, k);
    result.dead = std::count(moments.begin(), moments.end(), 0.0f);
  }
  result.perm = order.perm;
  return result;
}

GroupPruneResult prune_by_surgery(const GroupPrune& prune, float* w, std::int64_t rows, std::int64_t k,
                                  std::span<float> moments, const std::string& what) {
  GroupPruneResult result;
  const std::vector<float> original(w, w + rows * k);
  mirror_lower(k, moments.data());
  InverseFactor factor = factor_inverse(moments, k, {}, prune.dampening, what);
  const Order order = order_of(prune, w, rows, k, prune.split ? factor.saliency() : std::vector<float>());
  if (prune.split) factor = factor_inverse(moments, k, order.perm, prune.dampening, what);
  permute(order.perm, w, rows, k, false);
  obs_prune(factor, order.group, order.pruned, w, rows, k);
  permute(order.perm, w, rows, k, true);
  result.dampening = factor.dampening;
  result.dead = factor.dead;
  refit_weights(moments, factor.added, k, original.data(), w, rows, prune.refits);
  const OutputError error(moments, original.data(), rows, k);
  result.error_masked = error.of(w, true);
  result.error = error.of(w, false);
  result.perm = order.perm;
  if (prune.round_to_fp8) {
    permute(order.perm, w, rows, k, false);
    obs_round(factor, w, rows, k);
    permute(order.perm, w, rows, k, true);
  }
  return result;
}

}  // namespace

GroupPruneResult prune_group(const GroupPrune& prune, float* w, std::int64_t rows, std::int64_t k,
                             std::span<float> second_moments, const std::string& what) {
  const std::int64_t expected = prune.method == PruneMethod::kMagnitude   ? 0
                                : prune.method == PruneMethod::kSparseGpt ? k * k
                                                                          : k;
  require(prune.method != PruneMethod::kNone && !prune.pattern.is_dense() &&
              static_cast<std::int64_t>(second_moments.size()) == expected,
          "{}: {} of {} with {} second moments for {} channels", what, prune_method_name(prune.method),
          prune.pattern.to_string(), second_moments.size(), k);
  for (std::int64_t i = 0; i < rows * k; ++i) {
    if (!std::isfinite(w[i])) {
      fail_input("{}: the weight at row {}, column {} is {}; weights must be finite", printable(what), i / k,
                 i % k, w[i]);
    }
  }
  return prune.method == PruneMethod::kSparseGpt ? prune_by_surgery(prune, w, rows, k, second_moments, what)
                                                 : prune_by_cost(prune, w, rows, k, second_moments, what);
}

}  // namespace slidesparse
