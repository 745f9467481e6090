#include "prune/obs.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/cpu.h"
#include "core/fail.h"
#include "core/isa_targets.h"
#include "core/linear_algebra.h"
#include "core/numeric.h"
#include "core/parallel.h"
#include "core/text.h"

namespace slidesparse {
namespace {

constexpr int kMaxGroup = 16;
// Columns whose changes are carried out at once, by a matrix product: large enough for it to run at speed,
// small enough for a row of them to stay in the first-level cache.
constexpr std::int64_t kBlock = 128;
constexpr double kDampeningStep = 10;
constexpr int kDampeningSteps = 3;

// One way to drop lanes a < b of a group (a = b: that one only): cost = aa w_a^2 + ab w_a w_b + bb w_b^2, the
// inverse of the 2 x 2 block of H^-1.
struct Removal {
  int a = 0;
  int b = 0;
  float aa = 0;
  float ab = 0;
  float bb = 0;
};

// All removals of one group and the group's own block of U, shared by all rows.
struct GroupPlan {
  std::int64_t first = 0;  // channel
  int lanes = 0;
  std::vector<Removal> removals;  // empty: a tail that obeys the pattern whatever it holds
};

GroupPlan plan_group(const InverseFactor& factor, std::int64_t first, int lanes, int drop) {
  GroupPlan plan{first, lanes, {}};
  if (drop == 0) return plan;
  // (H^-1)_ab of what is left: sum over t of U_ta U_tb.
  const auto inverse = [&](int a, int b) {
    double sum = 0;
    for (int t = 0; t <= std::min(a, b); ++t) {
      const float* row = factor.row(first + t) + first;
      sum += static_cast<double>(row[a]) * static_cast<double>(row[b]);
    }
    return sum;
  };
  for (int a = 0; a < lanes; ++a) {
    const double aa = inverse(a, a);
    if (drop == 1) {
      plan.removals.push_back({a, a, static_cast<float>(1 / aa), 0, 0});
      continue;
    }
    for (int b = a + 1; b < lanes; ++b) {
      const double bb = inverse(b, b);
      const double ab = inverse(a, b);
      const double determinant = aa * bb - ab * ab;
      plan.removals.push_back({a, b, static_cast<float>(bb / determinant),
                               static_cast<float>(-2 * ab / determinant),
                               static_cast<float>(aa / determinant)});
    }
  }
  return plan;
}

SLIDESPARSE_INLINE void subtract_scaled(float factor, const float* x, float* y, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) y[i] -= factor * x[i];
}

// Columns [begin, end) of one row; `changes` [end - begin] gets what later columns have to subtract times U.
SLIDESPARSE_INLINE double prune_columns(const InverseFactor& factor, std::span<const GroupPlan> groups,
                                        std::int64_t begin, std::int64_t end, float* w, float* changes) {
  double loss = 0;
  std::fill_n(changes, end - begin, 0.0f);
  for (const GroupPlan& group : groups) {
    float* lane = w + group.first;
    const Removal* best = nullptr;
    float best_cost = 0;
    for (const Removal& removal : group.removals) {
      const float wa = lane[removal.a];
      const float wb = lane[removal.b];
      const float cost = removal.aa * wa * wa + removal.ab * wa * wb + removal.bb * wb * wb;
      if (best == nullptr || cost < best_cost) {
        best = &removal;
        best_cost = cost;
      }
    }
    if (best == nullptr) continue;
    const float wa = lane[best->a];
    const float wb = best->a == best->b ? 0.0f : lane[best->b];
    if (wa != 0.0f || wb != 0.0f) {
      loss += static_cast<double>(std::max(best_cost, 0.0f));
      // Lagrange multipliers of "both become zero", then the change of lane t of the group in terms of U's
      // rows.
      const float la = best->aa * wa + 0.5f * best->ab * wb;
      const float lb = 0.5f * best->ab * wa + best->bb * wb;
      for (int t = 0; t <= best->b; ++t) {
        const float* row = factor.row(group.first + t);
        const float change = (t <= best->a ? row[group.first + best->a] * la : 0.0f) +
                             (best->a == best->b ? 0.0f : row[group.first + best->b] * lb);
        changes[group.first - begin + t] = change;
        subtract_scaled(change, row + group.first + t, w + group.first + t, end - group.first - t);
      }
    }
    lane[best->a] = 0.0f;
    lane[best->b] = 0.0f;
  }
  return loss;
}

struct PruneLoops {
  using Function = double (*)(const InverseFactor&, std::span<const GroupPlan>, std::int64_t, std::int64_t,
                              float*, float*);
  static double portable(const InverseFactor& factor, std::span<const GroupPlan> groups, std::int64_t begin,
                         std::int64_t end, float* w, float* changes) {
    return prune_columns(factor, groups, begin, end, w, changes);
  }
  SLIDESPARSE_AVX2 static double avx2(const InverseFactor& factor, std::span<const GroupPlan> groups,
                                      std::int64_t begin, std::int64_t end, float* w, float* changes) {
    return prune_columns(factor, groups, begin, end, w, changes);
  }
  SLIDESPARSE_AVX512 static double avx512(const InverseFactor& factor, std::span<const GroupPlan> groups,
                                          std::int64_t begin, std::int64_t end, float* w, float* changes) {
    return prune_columns(factor, groups, begin, end, w, changes);
  }
  static Function best() {
    return active_isa() == Isa::kAvx512 ? avx512 : active_isa() == Isa::kAvx2 ? avx2 : portable;
  }
};

// What is settled of a row before any weight is rounded.
struct RowRounding {
  float scale = 0;           // 0: a row of zeros, or so small that it has none
  std::int64_t largest = 0;  // channel of the weight that gives the scale: it keeps the largest code, so that
                             // quantising the result finds the same scale
  std::vector<bool> kept;    // [k]: not zero
};

RowRounding plan_rounding(const float* w, std::int64_t k) {
  RowRounding plan;
  plan.kept.resize(static_cast<std::size_t>(k));
  for (std::int64_t c = 0; c < k; ++c) {
    plan.kept[static_cast<std::size_t>(c)] = w[c] != 0.0f;
    if (std::abs(w[c]) > std::abs(w[plan.largest])) plan.largest = c;
  }
  const auto rounded = [](float value) { return bf16_to_float(float_to_bf16(value)); };
  plan.scale = rounded(rounded(std::abs(w[plan.largest])) / kE4M3Max);
  return plan;
}

// Columns [begin, end) of one row, each rounded when those before it have been; `changes` as above.
SLIDESPARSE_INLINE void round_columns(const InverseFactor& factor, std::int64_t begin, std::int64_t end,
                                      const RowRounding& plan, float* w, float* changes) {
  for (std::int64_t c = begin; c < end; ++c) {
    float code = 0;
    if (c == plan.largest) {
      code = std::copysign(kE4M3Max, w[c]);
    } else if (plan.kept[static_cast<std::size_t>(c)]) {
      code = e4m3_to_float(float_to_e4m3(w[c] / plan.scale));
    }
    const float* row = factor.row(c);
    const float change = (w[c] - code * plan.scale) / row[c];
    changes[c - begin] = change;
    subtract_scaled(change, row + c, w + c, end - c);
    w[c] = code == 0.0f ? 0.0f : code * plan.scale;
  }
}

struct RoundLoops {
  using Function = void (*)(const InverseFactor&, std::int64_t, std::int64_t, const RowRounding&, float*,
                            float*);
  static void portable(const InverseFactor& factor, std::int64_t begin, std::int64_t end,
                       const RowRounding& plan, float* w, float* changes) {
    round_columns(factor, begin, end, plan, w, changes);
  }
  SLIDESPARSE_AVX2 static void avx2(const InverseFactor& factor, std::int64_t begin, std::int64_t end,
                                    const RowRounding& plan, float* w, float* changes) {
    round_columns(factor, begin, end, plan, w, changes);
  }
  SLIDESPARSE_AVX512 static void avx512(const InverseFactor& factor, std::int64_t begin, std::int64_t end,
                                        const RowRounding& plan, float* w, float* changes) {
    round_columns(factor, begin, end, plan, w, changes);
  }
  static Function best() {
    return active_isa() == Isa::kAvx512 ? avx512 : active_isa() == Isa::kAvx2 ? avx2 : portable;
  }
};

// Settles the columns [0, count) of all rows, `block` at a time: prepare(begin, end) gives a function that
// settles these of one row, (row number, row, changes), and `changes` times their rows of U is what the
// columns behind the block then lose.
template <typename Prepare>
void for_blocks(const InverseFactor& factor, std::int64_t count, std::int64_t block, float* w,
                std::int64_t rows, std::int64_t ld, const Prepare& prepare) {
  const std::int64_t k = factor.k;
  std::vector<float> changes(static_cast<std::size_t>(rows * block));
  for (std::int64_t begin = 0; begin < count; begin += block) {
    const std::int64_t end = std::min(begin + block, count);
    const auto settle = prepare(begin, end);
    parallel_for(rows, 4, [&](std::int64_t first_row, std::int64_t last_row) {
      for (std::int64_t r = first_row; r < last_row; ++r) settle(r, w + r * ld, changes.data() + r * block);
    });
    if (end < k) {
      multiply({rows, k - end, end - begin, -1.0f, 1.0f}, changes.data(), block, factor.row(begin) + end, k,
               w + end, ld);
    }
  }
}

// Lower triangle of H in reverse order, dampened: its Cholesky factor L gives U = L^-1 reversed.
void fill_reversed(std::span<const float> moments, std::int64_t k, std::span<const std::int32_t> order,
                   double added, float* out) {
  const auto channel = [&](std::int64_t place) {
    return order.empty() ? place : static_cast<std::int64_t>(order[static_cast<std::size_t>(place)]);
  };
  parallel_for(k, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t row = channel(k - 1 - i);
      for (std::int64_t j = 0; j <= i; ++j) {
        out[i * k + j] = moments[static_cast<std::size_t>(row * k + channel(k - 1 - j))];
      }
      out[i * k + i] += static_cast<float>(added);
    }
  });
}

// Element (i, j) comes from (k - 1 - i, k - 1 - j); what was above the diagonal is zeroed first.
void reverse_both(std::int64_t k, float* a) {
  for (std::int64_t i = 0; i < k; ++i) std::fill(a + i * k + i + 1, a + (i + 1) * k, 0.0f);
  std::reverse(a, a + k * k);
}

}  // namespace

std::vector<float> InverseFactor::saliency() const {
  std::vector<double> diagonal(static_cast<std::size_t>(k), 0.0);
  for (std::int64_t i = 0; i < k; ++i) {
    for (std::int64_t j = i; j < k; ++j)
      diagonal[static_cast<std::size_t>(j)] +=
          static_cast<double>(row(i)[j]) * static_cast<double>(row(i)[j]);
  }
  std::vector<float> result(diagonal.size());
  std::transform(diagonal.begin(), diagonal.end(), result.begin(),
                 [](double value) { return static_cast<float>(1 / value); });
  return result;
}

InverseFactor factor_inverse(std::span<const float> second_moments, std::int64_t k,
                             std::span<const std::int32_t> order, double dampening, const std::string& what) {
  require(static_cast<std::int64_t>(second_moments.size()) == k * k &&
              (order.empty() || static_cast<std::int64_t>(order.size()) == k),
          "{}: {} second moments and {} places for {} channels", what, second_moments.size(), order.size(),
          k);
  InverseFactor factor;
  factor.k = k;
  double mean = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    const float moment = second_moments[static_cast<std::size_t>(i * k + i)];
    if (!std::isfinite(moment) || moment < 0) {
      fail_input(
          "{}: the second moment of input channel {} is {}; calibration met activations that are not "
          "finite",
          printable(what), i, moment);
    }
    mean += static_cast<double>(moment) / static_cast<double>(k);
    factor.dead += moment == 0 ? 1 : 0;
  }
  if (mean == 0) fail_input("{}: all inputs were zero in the calibration text", printable(what));
  factor.upper.resize(static_cast<std::size_t>(k * k));
  factor.dampening = dampening;
  for (int attempt = 0;; ++attempt, factor.dampening *= kDampeningStep) {
    factor.added = factor.dampening * mean;
    fill_reversed(second_moments, k, order, factor.added, factor.upper.data());
    if (cholesky(k, factor.upper.data()) && invert_lower(k, factor.upper.data())) break;
    if (attempt == kDampeningSteps) {
      fail_input(
          "{}: the second moments of its inputs are not positive definite, not even with dampening {}; "
          "use more calibration text",
          printable(what), factor.dampening);
    }
  }
  reverse_both(k, factor.upper.data());
  return factor;
}

double obs_prune(const InverseFactor& factor, int group, std::int64_t pruned, float* w, std::int64_t rows,
                 std::int64_t ld) {
  require(group >= 4 && group <= kMaxGroup && pruned >= 0 && pruned <= factor.k,
          "groups of {} over {} of {} channels", group, pruned, factor.k);
  const auto prune = PruneLoops::best();
  std::vector<double> losses(static_cast<std::size_t>(rows), 0.0);
  for_blocks(factor, pruned, kBlock / group * group, w, rows, ld, [&](std::int64_t begin, std::int64_t end) {
    std::vector<GroupPlan> groups;
    for (std::int64_t first = begin; first < end; first += group) {
      const int lanes = static_cast<int>(std::min<std::int64_t>(group, end - first));
      groups.push_back(plan_group(factor, first, lanes, std::max(0, lanes - (group - 2))));
    }
    return [&, groups = std::move(groups), begin, end](std::int64_t r, float* row, float* changes) {
      losses[static_cast<std::size_t>(r)] += prune(factor, groups, begin, end, row, changes);
    };
  });
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

void obs_round(const InverseFactor& factor, float* w, std::int64_t rows, std::int64_t ld) {
  const std::int64_t k = factor.k;
  const auto round = RoundLoops::best();
  std::vector<RowRounding> plans(static_cast<std::size_t>(rows));
  parallel_for(rows, 4, [&](std::int64_t first_row, std::int64_t last_row) {
    for (std::int64_t r = first_row; r < last_row; ++r)
      plans[static_cast<std::size_t>(r)] = plan_rounding(w + r * ld, k);
  });
  for_blocks(factor, k, kBlock, w, rows, ld, [&](std::int64_t begin, std::int64_t end) {
    return [&, begin, end](std::int64_t r, float* row, float* changes) {
      const RowRounding& plan = plans[static_cast<std::size_t>(r)];
      if (plan.scale > 0) {
        round(factor, begin, end, plan, row, changes);
      } else {
        std::fill_n(changes, end - begin, 0.0f);
      }
    };
  });
}

}  // namespace slidesparse
