#include "engine/step_times.h"

#include <gtest/gtest.h>

namespace slidesparse {
namespace {

TEST(StepTimes, QuantilesAreTimesThatWereThere) {
  StepTimes times;
  EXPECT_EQ(times.quantile(0.5), 0);
  for (int i = 1; i <= 100; ++i) times.add(1000.0 * i, 1000.0 * i + i);  // 1 .. 100 seconds
  EXPECT_EQ(times.quantile(0.5), 50);
  EXPECT_EQ(times.quantile(0.99), 99);
  EXPECT_EQ(times.quantile(0), 1);
  EXPECT_EQ(times.quantile(1), 100);
  EXPECT_EQ(times.sum(), 5050);
}

TEST(StepTimes, AStepUnderWayBesideAnotherCountsFromItsArrival) {
  StepTimes times;
  times.add(0, 4);
  times.add(1, 6);    // 4 to 6
  times.add(20, 23);  // nothing ran before 20
  EXPECT_EQ(times.sum(), 9);
  EXPECT_EQ(times.quantile(0), 2);
  EXPECT_EQ(times.quantile(1), 4);
}

TEST(StepTimes, TheLastOnesCount) {
  StepTimes times;
  double now = 0;
  const auto step = [&](double seconds) {
    times.add(now, now + seconds);
    now += seconds;
  };
  for (std::size_t i = 0; i < StepTimes::kKept; ++i) step(8);
  for (std::size_t i = 0; i < StepTimes::kKept; ++i) step(2);
  EXPECT_EQ(times.quantile(1), 2);
  EXPECT_EQ(times.sum(), 10.0 * StepTimes::kKept);
}

}  // namespace
}  // namespace slidesparse
