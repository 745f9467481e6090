// Step n + 1 is scheduled while step n runs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/scheduler.h"
#include "engine/scheduler_test_tools.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using test::finish;
using test::request;
using test::text;
using ::testing::ElementsAre;

constexpr SchedulerOptions kOptions{
    .max_batched_tokens = 64, .max_sequences = 8, .max_context = 64, .watermark = 0};

TEST(SchedulerOverlap, AnEntrySaysThatItsInputIsInFlight) {
  Scheduler scheduler({.max_batched_tokens = 8, .max_sequences = 4, .max_context = 64}, 100, 4);
  scheduler.add(request(1, 2, 9));
  scheduler.add(request(2, 3, 9));
  const Step* first = scheduler.schedule();
  EXPECT_EQ(text(first), "1:0+2! 2:0+3!");
  scheduler.add(request(3, 4, 9));
  const Step* second = scheduler.schedule();
  EXPECT_EQ(text(second), "1:2+1!<0 2:3+1!<1 3:0+4!");
  EXPECT_TRUE(second->entries[0].tokens.empty());
  EXPECT_EQ(second->entries[2].tokens.size(), 4u);
  EXPECT_THROW(scheduler.schedule(), Error);
  EXPECT_THROW(finish(scheduler, second), Error);  // not the oldest
  EXPECT_EQ(text(first), "1:0+2! 2:0+3!");
  finish(scheduler, first);
  EXPECT_TRUE(scheduler.cancel(1));
  const Step* third = scheduler.schedule();
  EXPECT_EQ(text(third), "2:4+1!<1 3:4+1!<2");
  finish(scheduler, second);
  finish(scheduler, third);
  // With nothing in flight all inputs are known.
  const Step* fourth = scheduler.schedule();
  EXPECT_EQ(text(fourth), "2:5+1! 3:5+1!");
  EXPECT_THAT(fourth->entries[0].tokens, ElementsAre(2502));
}

TEST(SchedulerOverlap, TheSurplusTokenIsDroppedAndPagesWaitForIt) {
  Scheduler scheduler(kOptions, 8, 4);
  Request stops = request(1, 4, 9);
  stops.stop_tokens = {1500};
  scheduler.add(stops);
  const Step* first = scheduler.schedule();
  const Step* second = scheduler.schedule();
  EXPECT_EQ(text(second), "1:4+1!<0");
  EXPECT_EQ(scheduler.blocks().used(), 2);
  StepResult result = finish(scheduler, first);
  EXPECT_TRUE(result.tokens.empty());
  ASSERT_EQ(result.finished.size(), 1u);
  EXPECT_EQ(result.finished[0].reason, StopReason::kStopToken);
  EXPECT_TRUE(result.finished[0].output.empty());
  EXPECT_EQ(scheduler.live(), 0);
  EXPECT_EQ(scheduler.blocks().used(), 2);
  EXPECT_EQ(scheduler.schedule(), nullptr);
  result = finish(scheduler, second);
  EXPECT_TRUE(result.tokens.empty());
  EXPECT_TRUE(result.finished.empty());
  EXPECT_EQ(scheduler.blocks().used(), 0);
}

TEST(SchedulerOverlap, NothingIsScheduledPastTheLastToken) {
  Scheduler scheduler({.max_batched_tokens = 8, .max_sequences = 1, .max_context = 64}, 8, 4);
  scheduler.add(request(1, 3, 1));
  scheduler.add(request(2, 3, 2));
  const Step* first = scheduler.schedule();
  EXPECT_EQ(text(first), "1:0+3!");
  // Its place is free at once, its page when the step is through.
  const Step* second = scheduler.schedule();
  EXPECT_EQ(text(second), "2:0+3!");
  EXPECT_EQ(scheduler.blocks().used(), 2);
  EXPECT_EQ(finish(scheduler, first).finished.size(), 1u);
  EXPECT_EQ(scheduler.blocks().used(), 1);
  const Step* third = scheduler.schedule();
  EXPECT_EQ(text(third), "2:3+1!<0");
  EXPECT_TRUE(finish(scheduler, second).finished.empty());
  EXPECT_EQ(scheduler.schedule(), nullptr);
  EXPECT_EQ(finish(scheduler, third).finished.size(), 1u);
  EXPECT_EQ(scheduler.schedule(), nullptr);
  EXPECT_EQ(scheduler.blocks().used(), 0);
}

TEST(SchedulerOverlap, PagesOfACancelledRequestWaitForTheStep) {
  Scheduler scheduler(kOptions, 8, 4);
  scheduler.add(request(1, 8, 9));
  const Step* first = scheduler.schedule();
  EXPECT_TRUE(scheduler.cancel(1));
  EXPECT_EQ(scheduler.blocks().used(), 2);
  Request again = request(1, 3, 1);  // the same id while the old one is in flight
  scheduler.add(again);
  const Step* second = scheduler.schedule();
  EXPECT_EQ(text(second), "1:0+3!");
  EXPECT_EQ(scheduler.blocks().used(), 3);
  EXPECT_TRUE(finish(scheduler, first).tokens.empty());
  EXPECT_EQ(scheduler.blocks().used(), 1);
  EXPECT_EQ(finish(scheduler, second).tokens.size(), 1u);
  EXPECT_EQ(scheduler.blocks().used(), 0);
}

TEST(SchedulerOverlap, WaitsForPagesOnTheirWayRatherThanPreempt) {
  Scheduler scheduler(kOptions, 4, 2);
  scheduler.add(request(1, 2, 3));
  scheduler.add(request(2, 4, 1));
  scheduler.add(request(3, 1, 3));
  scheduler.add(request(4, 1, 3));
  const Step* first = scheduler.schedule();
  EXPECT_EQ(text(first), "1:0+2! 2:0+4! 3:0+1!");
  const Step* second = scheduler.schedule();
  EXPECT_EQ(text(second), "3:1+1!<2");  // 1 needs a page and gets one of 2's
  finish(scheduler, first);
  EXPECT_EQ(text(scheduler.schedule()), "1:2+1! 3:2+1!<0");
  EXPECT_EQ(scheduler.preemptions(), 0);
}

TEST(SchedulerOverlap, APageOnItsWayIsForOneOnly) {
  Scheduler scheduler(kOptions, 5, 1);
  scheduler.add(request(1, 1, 3));
  scheduler.add(request(2, 1, 3));
  scheduler.add(request(3, 1, 1));
  scheduler.add(request(4, 2, 3));
  const Step* first = scheduler.schedule();
  EXPECT_EQ(text(first), "1:0+1! 2:0+1! 3:0+1! 4:0+2!");
  EXPECT_EQ(scheduler.schedule(), nullptr);  // 1 waits for the page of 3, 2 for one of 4
  EXPECT_EQ(scheduler.preemptions(), 1);
  finish(scheduler, first);
  EXPECT_EQ(text(scheduler.schedule()), "1:1+1! 2:1+1!");
}

TEST(SchedulerOverlap, APreemptedRequestKeepsTheTokenInFlight) {
  Scheduler scheduler(kOptions, 3, 2);
  scheduler.add(request(1, 2, 2));
  scheduler.add(request(2, 3, 2));
  const Step* first = scheduler.schedule();
  EXPECT_EQ(text(first), "1:0+2! 2:0+3!");
  EXPECT_EQ(scheduler.schedule(), nullptr);  // 2's pages come back with the step
  EXPECT_EQ(scheduler.preemptions(), 1);
  EXPECT_EQ(scheduler.waiting(), 1);
  EXPECT_EQ(scheduler.blocks().used(), 3);
  const StepResult result = finish(scheduler, first);
  ASSERT_EQ(result.tokens.size(), 2u);
  EXPECT_EQ(result.tokens[1].token, 2500);
  EXPECT_EQ(scheduler.blocks().used(), 1);
  const Step* second = scheduler.schedule();
  EXPECT_EQ(text(second), "1:2+1!");
  EXPECT_EQ(scheduler.schedule(), nullptr);
  finish(scheduler, second);
  const Step* third = scheduler.schedule();
  EXPECT_EQ(text(third), "2:0+4!");
  EXPECT_THAT(third->entries[0].tokens, ElementsAre(2000, 2001, 2002, 2500));
  EXPECT_THAT(finish(scheduler, third).finished.at(0).output, ElementsAre(2500, 2501));
}

TEST(SchedulerOverlap, APreemptedRequestCanStillStop) {
  Scheduler scheduler(kOptions, 3, 2);
  scheduler.add(request(1, 2, 2));
  Request stops = request(2, 3, 2);
  stops.stop_tokens = {2500};
  scheduler.add(stops);
  const Step* first = scheduler.schedule();
  EXPECT_EQ(scheduler.schedule(), nullptr);
  ASSERT_EQ(finish(scheduler, first).finished.size(), 1u);
  EXPECT_EQ(scheduler.waiting(), 0);
  EXPECT_EQ(text(scheduler.schedule()), "1:2+1!");
}

}  // namespace
}  // namespace slidesparse
