#include "prune/budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>

#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The least loss of all assignments that reach the target; infinity when none does.
double least_loss(const std::vector<BudgetGroup>& groups, double target) {
  std::vector<std::size_t> chosen(groups.size(), 0);
  double least = std::numeric_limits<double>::infinity();
  while (true) {
    if (mixed_speed(groups, chosen) >= target) {
      double loss = 0;
      for (std::size_t g = 0; g < groups.size(); ++g) loss += groups[g].candidates[chosen[g]].loss;
      least = std::min(least, loss);
    }
    std::size_t g = 0;
    while (g < groups.size() && ++chosen[g] == groups[g].candidates.size()) chosen[g++] = 0;
    if (g == groups.size()) return least;
  }
}

std::vector<BudgetGroup> random_groups(std::mt19937& random, std::size_t count, std::size_t candidates) {
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<BudgetGroup> groups(count);
  for (BudgetGroup& group : groups) {
    group.share = 0.1 + uniform(random);
    group.candidates.push_back({0, 1});
    const double scale = std::exp(4 * uniform(random));
    for (std::size_t c = 1; c < candidates; ++c)
      group.candidates.push_back({scale * uniform(random), 1 + uniform(random)});
  }
  return groups;
}

std::string error_of_target(const std::vector<BudgetGroup>& groups, double target) {
  try {
    assign_budget(groups, target);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "";
}

TEST(Budget, AsGoodAsAllAssignmentsTried) {
  std::mt19937 random(7);
  int exact = 0;
  int cases = 0;
  for (int round = 0; round < 40; ++round) {
    const std::vector<BudgetGroup> groups = random_groups(random, 2 + round % 4, 2 + round % 3);
    const double most = speed_range(groups).most;
    for (const double part : {0.0, 0.3, 0.7, 0.95, 1.0}) {
      const double target = 1 + part * (most - 1);
      const BudgetAssignment found = assign_budget(groups, target);
      EXPECT_GE(found.speed, target * (1 - 1e-12));
      EXPECT_EQ(found.speed, mixed_speed(groups, found.candidates));
      double loss = 0;
      for (std::size_t g = 0; g < groups.size(); ++g) loss += groups[g].candidates[found.candidates[g]].loss;
      EXPECT_NEAR(found.loss, loss, 1e-12 * (1 + loss));
      // What rounding of times may cost, and no more.
      const double slack = 1 + static_cast<double>(groups.size()) / static_cast<double>(kBudgetSteps);
      EXPECT_LE(found.loss, least_loss(groups, target * slack) + 1e-12);
      EXPECT_GE(found.loss, least_loss(groups, target * (1 - 1e-12)) - 1e-12);
      exact += found.loss <= least_loss(groups, target * (1 + 1e-12)) + 1e-12;
      ++cases;
    }
  }
  EXPECT_GE(exact, cases - 2);  // rounding of times matters in few of them, if in any
}

TEST(Budget, SpeedsAreMixedByAmdahlsLaw) {
  const std::vector<BudgetCandidate> two{{0, 1}, {1, 2}};
  const std::vector<BudgetGroup> groups{{1, two}, {3, two}};
  const auto speed = [&](std::vector<std::size_t> chosen) { return mixed_speed(groups, chosen); };
  EXPECT_DOUBLE_EQ(speed({0, 0}), 1);
  EXPECT_DOUBLE_EQ(speed({1, 1}), 2);
  EXPECT_DOUBLE_EQ(speed({1, 0}), 4 / 3.5);
  EXPECT_DOUBLE_EQ(speed({0, 1}), 4 / 2.5);
}

TEST(Budget, SparesWhatIsSensitive) {
  // Equal shares; the second group loses ten times as much.
  const std::vector<BudgetGroup> groups{{1, {{0, 1}, {1, 1.2}, {3, 1.5}}},
                                        {1, {{0, 1}, {10, 1.2}, {30, 1.5}}}};
  EXPECT_THAT(assign_budget(groups, 1).candidates, ElementsAre(0, 0));
  EXPECT_THAT(assign_budget(groups, 1.1).candidates, ElementsAre(2, 0));
  // The speed of a uniform choice is a target that it meets itself.
  EXPECT_THAT(assign_budget(groups, 1.5).candidates, ElementsAre(2, 2));
  EXPECT_DOUBLE_EQ(assign_budget(groups, 1.5).speed, 1.5);
}

// Rounding of times must not keep a mix from a target that is exactly its own speed.
TEST(Budget, EveryMixMeetsItsOwnSpeed) {
  std::mt19937 random(11);
  for (int round = 0; round < 20; ++round) {
    std::vector<BudgetGroup> groups = random_groups(random, 50, 4);
    std::vector<std::size_t> wanted;
    for (BudgetGroup& group : groups) {
      wanted.push_back(random() % group.candidates.size());
      for (std::size_t c = 0; c < group.candidates.size(); ++c)
        group.candidates[c].loss = c == wanted.back() ? 0 : 1;
    }
    EXPECT_EQ(assign_budget(groups, mixed_speed(groups, wanted)).candidates, wanted);
  }
}

TEST(Budget, ACandidateThatIsSlowerAndLosesMoreIsNotTaken) {
  const std::vector<BudgetGroup> groups{{1, {{5, 1.1}, {1, 1.2}, {2, 1.2}}}};
  EXPECT_THAT(assign_budget(groups, 1.05).candidates, ElementsAre(1));
}

TEST(Budget, SaysWhatIsInReach) {
  const std::vector<BudgetGroup> groups{{1, {{0, 1}, {1, 1.25}}}, {3, {{0, 1}, {1, 1.25}}}};
  EXPECT_THAT(error_of_target(groups, 1.3),
              HasSubstr("a target speed of 1.3 cannot be met: 1 to 1.2500 times dense are in reach"));
  EXPECT_THAT(error_of_target(groups, 0.9), HasSubstr("1 to 1.2500"));
  EXPECT_THAT(error_of_target(groups, std::nan("")), HasSubstr("1 to 1.2500"));
  EXPECT_EQ(error_of_target(groups, 1.25), "");
}

TEST(Budget, LargeModelsTakeNoTime) {
  std::mt19937 random(3);
  const std::vector<BudgetGroup> groups = random_groups(random, 320, 15);
  const double target = 0.5 * (1 + speed_range(groups).most);
  const BudgetAssignment found = assign_budget(groups, target);
  EXPECT_GE(found.speed, target);
  // A time budget that is used up but for a few steps.
  EXPECT_LT(found.speed, target * 1.001);
}

}  // namespace
}  // namespace slidesparse
