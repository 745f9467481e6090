#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace slidesparse {

// One way to treat a fused group.
struct BudgetCandidate {
  double loss = 0;   // expected; any unit that adds up over groups
  double speed = 1;  // over dense
};

// A fused group and its candidates.
struct BudgetGroup {
  double share = 0;  // of the dense time of all groups; shares need not add up to 1
  std::vector<BudgetCandidate> candidates;
};

struct BudgetAssignment {
  std::vector<std::size_t> candidates;  // index into BudgetGroup::candidates, a group
  double loss = 0;                      // sum
  double speed = 1;                     // mixed_speed()
};

// Amdahl's law over groups: sum of shares / sum of share / speed, with candidate chosen[g] of each group g. A
// uniform choice gives its own speed.
double mixed_speed(std::span<const BudgetGroup> groups, std::span<const std::size_t> chosen);

// Speeds that assignments can have.
struct SpeedRange {
  double least = 1;
  double most = 1;
};
SpeedRange speed_range(std::span<const BudgetGroup> groups);

// The time of a group is rounded to a multiple of the slack between budget and fastest assignment over this:
// no assignment that is faster than `target` by a factor of 1 + groups / kBudgetSteps or more loses less than
// what assign_budget() finds.
inline constexpr std::size_t kBudgetSteps = std::size_t{1} << 17;

// The assignment of least total loss whose mixed_speed() is at least `target` (a multiple-choice knapsack, by
// dynamic programming over time; kBudgetSteps says what rounding of times costs). Equal losses: the candidate
// that comes first. Throws kUsage when no assignment reaches the target, with the range that can be reached.
BudgetAssignment assign_budget(std::span<const BudgetGroup> groups, double target);

}  // namespace slidesparse
