#include "prune/budget.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/fail.h"

namespace slidesparse {
namespace {

double time_of(const BudgetGroup& group, std::size_t candidate) {
  return group.share / group.candidates[candidate].speed;
}

double total_share(std::span<const BudgetGroup> groups) {
  double total = 0;
  for (const BudgetGroup& group : groups) total += group.share;
  return total;
}

std::size_t fastest(const BudgetGroup& group) {
  const auto found = std::ranges::max_element(group.candidates, {}, &BudgetCandidate::speed);
  return static_cast<std::size_t>(found - group.candidates.begin());
}

void check(std::span<const BudgetGroup> groups) {
  require(!groups.empty(), "a budget for no groups");
  for (const BudgetGroup& group : groups) {
    require(group.share > 0 && !group.candidates.empty() && group.candidates.size() <= 255,
            "a group with share {} and {} candidates", group.share, group.candidates.size());
    for (const BudgetCandidate& candidate : group.candidates) {
      require(candidate.speed > 0 && std::isfinite(candidate.speed) && std::isfinite(candidate.loss),
              "a candidate with speed {} and loss {}", candidate.speed, candidate.loss);
    }
  }
}

}  // namespace

double mixed_speed(std::span<const BudgetGroup> groups, std::span<const std::size_t> chosen) {
  require(groups.size() == chosen.size(), "{} groups, {} choices", groups.size(), chosen.size());
  double time = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) time += time_of(groups[g], chosen[g]);
  return time > 0 ? total_share(groups) / time : 1;
}

SpeedRange speed_range(std::span<const BudgetGroup> groups) {
  check(groups);
  double most = 0;
  double least = 0;
  for (const BudgetGroup& group : groups) {
    const auto [slow, fast] = std::ranges::minmax_element(group.candidates, {}, &BudgetCandidate::speed);
    most += group.share / slow->speed;
    least += group.share / fast->speed;
  }
  return {total_share(groups) / most, total_share(groups) / least};
}

BudgetAssignment assign_budget(std::span<const BudgetGroup> groups, double target) {
  const SpeedRange range = speed_range(groups);
  // Sums in another order differ by a few roundings: the fastest assignment's own speed is a valid target.
  constexpr double kRounding = 1e-12;
  if (!(target >= 1) || target > range.most * (1 + kRounding)) {
    fail(ErrorKind::kUsage, "a target speed of {} cannot be met: {} to {:.4f} times dense are in reach",
         target, 1, range.most);
  }
  const double budget = total_share(groups) / target * (1 + kRounding);
  double least = 0;
  for (const BudgetGroup& group : groups) least += time_of(group, fastest(group));
  const double step = std::max(0.0, budget - least) / static_cast<double>(kBudgetSteps);

  // best[s]: least loss of the groups so far when they take s steps beyond their fastest candidates at most.
  // Times are rounded to the nearest step, which is off by half a step a group at most: so what fits may
  // take a few steps more than there are.
  constexpr double kNone = std::numeric_limits<double>::infinity();
  const std::size_t margin = (groups.size() + 1) / 2;
  const std::size_t cells = step > 0 ? kBudgetSteps + 1 + margin : 1;
  std::vector<double> best(cells, 0.0);
  std::vector<double> next(cells);
  std::vector<std::uint8_t> choice(groups.size() * cells);
  std::vector<std::vector<std::size_t>> steps(groups.size());
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const BudgetGroup& group = groups[g];
    const double fast = time_of(group, fastest(group));
    std::fill(next.begin(), next.end(), kNone);
    std::uint8_t* chosen = choice.data() + g * cells;
    for (std::size_t c = 0; c < group.candidates.size(); ++c) {
      const double beyond = time_of(group, c) - fast;
      const double needed = beyond <= 0 ? 0.0 : step > 0 ? std::round(beyond / step) : kNone;
      steps[g].push_back(needed < static_cast<double>(cells) ? static_cast<std::size_t>(needed) : cells);
      const double loss = group.candidates[c].loss;
      for (std::size_t s = steps[g][c]; s < cells; ++s) {
        const double sum = best[s - steps[g][c]] + loss;
        if (sum < next[s]) {
          next[s] = sum;
          chosen[s] = static_cast<std::uint8_t>(c);
        }
      }
    }
    best.swap(next);
  }

  // With more steps the loss is less or equal: the first assignment that fits exactly is the best of them.
  // With the margin less than there are, every one fits.
  BudgetAssignment result;
  result.candidates.resize(groups.size());
  for (std::size_t capacity = cells; capacity-- > 0;) {
    std::size_t left = capacity;
    double time = 0;
    for (std::size_t g = groups.size(); g-- > 0;) {
      const std::size_t c = choice[g * cells + left];
      result.candidates[g] = c;
      left -= steps[g][c];
      time += time_of(groups[g], c);
    }
    result.loss = best[capacity];
    if (time <= budget) break;
  }
  result.speed = mixed_speed(groups, result.candidates);
  return result;
}

}  // namespace slidesparse
