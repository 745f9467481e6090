// What the scheduler does when pages run short, without overlap.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/scheduler.h"
#include "engine/scheduler_test_tools.h"

namespace slidesparse {
namespace {

using test::finish;
using test::request;
using test::run;
using test::text;
using ::testing::ElementsAre;

constexpr SchedulerOptions kNoWatermark{
    .max_batched_tokens = 64, .max_sequences = 8, .max_context = 64, .watermark = 0};

TEST(SchedulerPages, TheYoungestIsPreemptedAndPrefilledAgain) {
  Scheduler scheduler(kNoWatermark, 4, 2);
  scheduler.add(request(1, 3, 6));
  scheduler.add(request(2, 3, 6));
  EXPECT_EQ(run(scheduler), "1:0+3! 2:0+3!");
  scheduler.add(request(3, 1, 1));
  EXPECT_EQ(run(scheduler), "1:3+1! 2:3+1!");
  EXPECT_EQ(run(scheduler), "1:4+1!");  // needs a third page; nobody starts in such a step
  EXPECT_EQ(scheduler.preemptions(), 1);
  EXPECT_EQ(scheduler.running(), 1);
  EXPECT_EQ(scheduler.waiting(), 2);
  // One page is free, enough for 3, but 2 is at the front.
  for (const char* expected : {"1:5+1!", "1:6+1!", "1:7+1!"}) EXPECT_EQ(run(scheduler), expected);
  const Step* step = scheduler.schedule();
  EXPECT_EQ(text(step), "2:0+5! 3:0+1!");
  EXPECT_THAT(step->entries[0].tokens, ElementsAre(2000, 2001, 2002, 2500, 2501));
  EXPECT_EQ(step->entries[0].output_index, 2);
  finish(scheduler, step);
  for (const char* expected : {"2:5+1!", "2:6+1!"}) EXPECT_EQ(run(scheduler), expected);
  const StepResult result = finish(scheduler, scheduler.schedule());
  ASSERT_EQ(result.finished.size(), 1u);
  EXPECT_THAT(result.finished[0].output, ElementsAre(2500, 2501, 2502, 2503, 2504, 2505));
  EXPECT_EQ(result.finished[0].preemptions, 1);
  EXPECT_EQ(scheduler.blocks().used(), 0);
}

TEST(SchedulerPages, ARestartIsChunkedLikeAnyPrompt) {
  Scheduler scheduler({.max_batched_tokens = 3, .max_sequences = 2, .max_context = 64, .watermark = 0}, 4, 2);
  scheduler.add(request(1, 3, 3));
  scheduler.add(request(2, 3, 6));
  EXPECT_EQ(run(scheduler), "1:0+3!");
  EXPECT_EQ(run(scheduler), "1:3+1! 2:0+2");
  EXPECT_EQ(run(scheduler), "1:4+1!");  // 2 made room in the middle of its prompt
  EXPECT_EQ(run(scheduler), "2:0+3!");
  EXPECT_EQ(run(scheduler), "2:3+1!");
}

TEST(SchedulerPages, TheYoungestSitsOutRatherThanStartAgain) {
  Scheduler scheduler(kNoWatermark, 4, 2);
  scheduler.add(request(1, 3, 2));
  scheduler.add(request(2, 4, 3));
  scheduler.add(request(3, 1, 1));
  EXPECT_EQ(run(scheduler), "1:0+3! 2:0+4!");
  EXPECT_EQ(run(scheduler), "1:3+1!");
  EXPECT_EQ(run(scheduler), "2:4+1! 3:0+1!");
  EXPECT_EQ(scheduler.preemptions(), 0);
}

TEST(SchedulerPages, SeveralMakeRoomWhenOneIsNotEnough) {
  Scheduler scheduler(kNoWatermark, 6, 1);
  scheduler.add(request(1, 2, 9));
  scheduler.add(request(2, 2, 9));
  scheduler.add(request(3, 1, 9));
  scheduler.add(request(4, 1, 9));
  EXPECT_EQ(run(scheduler), "1:0+2! 2:0+2! 3:0+1! 4:0+1!");
  EXPECT_EQ(run(scheduler), "1:2+1! 2:2+1!");  // 4 for 1, then 3 for 2
  EXPECT_EQ(scheduler.preemptions(), 2);
  EXPECT_EQ(run(scheduler), "1:3+1!");
  EXPECT_EQ(run(scheduler), "1:4+1!");
  EXPECT_EQ(run(scheduler), "1:5+1!");
  EXPECT_EQ(run(scheduler), "2:0+4! 3:0+2!");
  EXPECT_EQ(scheduler.preemptions(), 3);
}

// Three of ten pages stay free for those that run and can still grow.
TEST(SchedulerPages, StartsLeaveTheWatermarkFree) {
  SchedulerOptions options = kNoWatermark;
  options.watermark = 0.3;
  {
    Scheduler scheduler(options, 10, 4);
    scheduler.add(request(1, 4, 30));
    scheduler.add(request(2, 24, 10));
    EXPECT_EQ(run(scheduler), "1:0+4! 2:0+24!");
  }
  {
    Scheduler scheduler(options, 10, 4);
    scheduler.add(request(1, 4, 30));
    scheduler.add(request(2, 25, 10));
    EXPECT_EQ(run(scheduler), "1:0+4!");
    EXPECT_TRUE(scheduler.cancel(1));
    EXPECT_EQ(run(scheduler), "2:0+25!");
  }
  {
    Scheduler scheduler(options, 10, 4);
    scheduler.add(request(1, 4, 2));   // grows by one page
    scheduler.add(request(2, 29, 4));  // not at all
    EXPECT_EQ(run(scheduler), "1:0+4! 2:0+29!");
    EXPECT_EQ(scheduler.blocks().free(), 1);
  }
  {
    Scheduler scheduler(options, 10, 4);
    scheduler.add(request(1, 40, 1));  // alone it may take everything
    EXPECT_EQ(run(scheduler), "1:0+40!");
  }
}

}  // namespace
}  // namespace slidesparse
