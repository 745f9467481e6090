#include "engine/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "engine/scheduler_test_tools.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using test::finish;
using test::request;
using test::run;
using test::text;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Scheduler, DecodesFirstThenChunksOfPrompts) {
  Scheduler scheduler({.max_batched_tokens = 8, .max_sequences = 4, .max_context = 64}, 100, 4);
  scheduler.add(request(1, 3, 10));
  scheduler.add(request(2, 12, 10));
  const Step* step = scheduler.schedule();
  EXPECT_EQ(text(step), "1:0+3! 2:0+5");
  EXPECT_EQ(step->tokens, 8);
  EXPECT_EQ(step->wanted, 1);
  EXPECT_EQ(step->sequences(), 2);
  EXPECT_FALSE(step->all_decode());
  EXPECT_THAT(step->entries[0].tokens, ElementsAre(1000, 1001, 1002));
  EXPECT_THAT(step->entries[1].tokens, ElementsAre(2000, 2001, 2002, 2003, 2004));
  EXPECT_EQ(step->entries[0].table.size(), 1u);
  EXPECT_EQ(step->entries[1].table.size(), 2u);
  EXPECT_EQ(step->entries[0].output_index, 0);
  EXPECT_EQ(step->entries[1].output_index, kNone);
  finish(scheduler, step);
  scheduler.add(request(3, 2, 10));
  EXPECT_EQ(run(scheduler), "1:3+1! 2:5+7!");
  step = scheduler.schedule();
  EXPECT_EQ(text(step), "1:4+1! 2:12+1! 3:0+2!");
  EXPECT_THAT(step->entries[0].tokens, ElementsAre(1501));
  EXPECT_THAT(step->entries[1].tokens, ElementsAre(2500));
  EXPECT_EQ(step->entries[0].table.size(), 2u);
  EXPECT_EQ(step->entries[1].table.size(), 4u);
  EXPECT_EQ(step->number, 2);
  finish(scheduler, step);
  step = scheduler.schedule();
  EXPECT_EQ(text(step), "1:5+1! 2:13+1! 3:2+1!");
  EXPECT_TRUE(step->all_decode());
}

TEST(Scheduler, NoMoreSequencesThanAllowed) {
  Scheduler scheduler({.max_batched_tokens = 100, .max_sequences = 2, .max_context = 64}, 100, 4);
  for (const std::int64_t id : {1, 2, 3}) scheduler.add(request(id, 2, id == 1 ? 2 : 3));
  EXPECT_EQ(run(scheduler), "1:0+2! 2:0+2!");
  EXPECT_EQ(scheduler.running(), 2);
  EXPECT_EQ(scheduler.waiting(), 1);
  EXPECT_EQ(run(scheduler), "1:2+1! 2:2+1!");
  EXPECT_EQ(run(scheduler), "2:3+1! 3:0+2!");
}

// The oldest prompt takes all tokens that decodes leave, so a long prompt does not wait for younger ones.
TEST(Scheduler, OlderPromptsGoFirst) {
  Scheduler scheduler({.max_batched_tokens = 4, .max_sequences = 3, .max_context = 64}, 100, 4);
  scheduler.add(request(1, 2, 9));
  scheduler.add(request(2, 9, 9));
  scheduler.add(request(3, 1, 9));
  EXPECT_EQ(run(scheduler), "1:0+2! 2:0+2");
  EXPECT_EQ(run(scheduler), "1:2+1! 2:2+3");
  EXPECT_EQ(run(scheduler), "1:3+1! 2:5+3");
  EXPECT_EQ(run(scheduler), "1:4+1! 2:8+1! 3:0+1!");
}

TEST(Scheduler, EndsRequestsForTheRightReason) {
  Scheduler scheduler({.max_batched_tokens = 100, .max_sequences = 8, .max_context = 6}, 100, 4);
  scheduler.add(request(1, 3, 3));   // 3 tokens, which also fill the context
  scheduler.add(request(2, 3, 4));   // the context ends it
  Request stops = request(3, 3, 3);  // the second token is a stop token
  stops.stop_tokens = {77, 3501};
  scheduler.add(stops);
  stops.id = 4;
  stops.stop_tokens = {4500, 4501};
  stops.min_new_tokens = 1;  // so 4500 is a token
  scheduler.add(stops);
  stops.id = 5;
  stops.stop_tokens = {5500, 5501};
  stops.min_new_tokens = 0;
  stops.ignore_eos = true;
  stops.max_new_tokens = 2;
  scheduler.add(stops);
  EXPECT_EQ(finish(scheduler, scheduler.schedule()).tokens.size(), 5u);
  StepResult result = finish(scheduler, scheduler.schedule());
  ASSERT_EQ(result.finished.size(), 3u);
  EXPECT_EQ(result.finished[0].id, 3);
  EXPECT_EQ(result.finished[0].reason, StopReason::kStopToken);
  EXPECT_EQ(result.finished[0].prompt_tokens, 3);
  EXPECT_THAT(result.finished[0].output, ElementsAre(3500));
  EXPECT_EQ(result.finished[1].id, 4);
  EXPECT_EQ(result.finished[1].reason, StopReason::kStopToken);
  EXPECT_THAT(result.finished[1].output, ElementsAre(4500));
  EXPECT_EQ(result.finished[2].id, 5);
  EXPECT_EQ(result.finished[2].reason, StopReason::kMaxTokens);
  EXPECT_THAT(result.finished[2].output, ElementsAre(5500, 5501));
  ASSERT_EQ(result.tokens.size(), 3u);  // of 1, 2 and 5: stop tokens are not shown
  EXPECT_EQ(result.tokens[2].id, 5);
  EXPECT_EQ(result.tokens[2].index, 1);
  EXPECT_EQ(result.tokens[2].token, 5501);
  result = finish(scheduler, scheduler.schedule());
  ASSERT_EQ(result.finished.size(), 2u);
  EXPECT_EQ(result.finished[0].reason, StopReason::kMaxTokens);
  EXPECT_EQ(result.finished[1].reason, StopReason::kMaxModelLen);
  EXPECT_EQ(result.finished[1].output.size(), 3u);
  EXPECT_EQ(scheduler.schedule(), nullptr);
  EXPECT_EQ(scheduler.live(), 0);
  EXPECT_EQ(scheduler.blocks().used(), 0);
}

TEST(Scheduler, PromptsOfOneTokenToDrawGivePagesBackAfterTheirStep) {
  // Pages for two prompts of eight tokens: each step starts two, whatever the watermark.
  Scheduler scheduler({.max_batched_tokens = 64, .max_sequences = 8, .max_context = 9, .watermark = 0.5}, 4,
                      4);
  for (const std::int64_t id : {1, 2, 3, 4, 5}) scheduler.add(request(id, 8, 1));
  EXPECT_EQ(run(scheduler), "1:0+8! 2:0+8!");
  EXPECT_EQ(scheduler.blocks().used(), 0);
  EXPECT_EQ(run(scheduler), "3:0+8! 4:0+8!");
  EXPECT_EQ(scheduler.blocks().used(), 0);
  EXPECT_EQ(run(scheduler), "5:0+8!");
  EXPECT_EQ(scheduler.blocks().peak(), 4);
  EXPECT_EQ(scheduler.preemptions(), 0);
}

TEST(Scheduler, CancelsWaitingAndRunningRequests) {
  Scheduler scheduler({.max_batched_tokens = 8, .max_sequences = 2, .max_context = 64}, 100, 4);
  for (const std::int64_t id : {1, 2, 3, 4}) scheduler.add(request(id, 2, 9));
  EXPECT_EQ(run(scheduler), "1:0+2! 2:0+2!");
  EXPECT_TRUE(scheduler.cancel(1));
  EXPECT_TRUE(scheduler.cancel(3));
  EXPECT_FALSE(scheduler.cancel(3));
  EXPECT_FALSE(scheduler.cancel(99));
  EXPECT_EQ(scheduler.blocks().used(), 1);
  scheduler.add(request(1, 3, 9));  // the id is free again
  EXPECT_EQ(run(scheduler), "2:2+1! 4:0+2!");
  EXPECT_TRUE(scheduler.cancel(2));
  EXPECT_EQ(run(scheduler), "4:2+1! 1:0+3!");
}

void expect_refused(Scheduler& scheduler, const Request& refused, ErrorKind kind, const char* message) {
  try {
    scheduler.add(refused);
    FAIL() << "accepted: " << message;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    EXPECT_THAT(error.what(), HasSubstr(message));
  }
}

TEST(Scheduler, RefusesWhatCanNeverRun) {
  Scheduler scheduler({.max_batched_tokens = 8, .max_sequences = 2, .max_context = 20}, 4, 4);
  expect_refused(scheduler, request(7, 20, 1), ErrorKind::kInput,
                 "request 7: a prompt of 20 tokens and a new one do not fit in a context of 20 tokens");
  expect_refused(scheduler, request(7, 17, 1), ErrorKind::kInput,
                 "request 7: a prompt of 17 tokens needs 5 pages of 4 tokens, the cache has 4 in all");
  expect_refused(scheduler, request(7, 0, 1), ErrorKind::kInput, "no tokens");
  expect_refused(scheduler, request(7, 1, 0), ErrorKind::kUsage, "0 to 0 new tokens");
  Request inverted = request(7, 1, 4);
  inverted.min_new_tokens = 5;
  expect_refused(scheduler, inverted, ErrorKind::kUsage, "5 to 4 new tokens");
  scheduler.add(request(7, 16, std::numeric_limits<std::int64_t>::max()));
  expect_refused(scheduler, request(7, 1, 1), ErrorKind::kUsage, "request 7");
  EXPECT_EQ(scheduler.live(), 1);
  // All pages hold 16 tokens, and the last one drawn needs none.
  EXPECT_EQ(scheduler.max_context(), 17);
  EXPECT_EQ(run(scheduler), "7:0+8");
  const StepResult result = finish(scheduler, scheduler.schedule());
  ASSERT_EQ(result.finished.size(), 1u);
  EXPECT_EQ(result.finished[0].reason, StopReason::kMaxModelLen);
}

TEST(Scheduler, RefusesNonsense) {
  EXPECT_THROW(Scheduler({.max_batched_tokens = 7, .max_sequences = 8}, 4, 4), Error);
  EXPECT_THROW(Scheduler({.max_sequences = 0}, 4, 4), Error);
  EXPECT_THROW(Scheduler({.max_context = 1}, 4, 4), Error);
  EXPECT_THROW(Scheduler({.watermark = 1.5}, 4, 4), Error);
  EXPECT_THROW(Scheduler({.watermark = std::numeric_limits<double>::quiet_NaN()}, 4, 4), Error);
  EXPECT_THROW(Scheduler({}, 0, 4), Error);
  Scheduler scheduler({}, 4, 4);
  EXPECT_EQ(scheduler.schedule(), nullptr);
  scheduler.add(request(1, 2, 3));
  const Step* step = scheduler.schedule();
  EXPECT_THROW(scheduler.complete(*step, {}), Error);
  EXPECT_THROW(scheduler.complete(Step{}, {}), Error);
  finish(scheduler, step);
  EXPECT_THROW(scheduler.complete(*step, {}), Error);
}

}  // namespace
}  // namespace slidesparse
