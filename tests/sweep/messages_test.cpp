#include "sweep/messages.h"

#include <gtest/gtest.h>

#include "io/test_files.h"
#include "sweep/estimate.h"
#include "sweep/inject.h"
#include "sweep/plan.h"
#include "sweep/plan_progress.h"

namespace slidesparse {
namespace {

using testing::kind_of;

TEST(Messages, ResultsComeBack) {
  CellResult result;
  result.outcome = Class::kDoesNotFit;
  result.message = "line with \"quotes\"";
  result.needed_bytes = std::int64_t{1} << 40;
  result.free_bytes = 5;
  result.largest_m = 480;
  result.holders = {{"KV cache", 7}, {"linears", 8}};
  result.measurements = {{"seconds", "s", 0.1, 0.05, 0.2, 9}, {"power", "W", 700, {}, {}, {}}};
  result.attributes = {{"kernel.o", "cpu/avx512"}};
  result.checks = {{"sequences", false, "2 instead of 3"}};
  const CellResult back = parse_words(result_line(result), "worker").result.value();
  EXPECT_EQ(result_to_json(back), result_to_json(result));
  EXPECT_EQ(back.measurements, result.measurements);
  EXPECT_EQ(back.checks, result.checks);
}

TEST(Messages, WordsThatAreNoUtf8AreMadeSo) {
  CellResult result;
  result.message = "a \xff b";
  EXPECT_EQ(parse_words(result_line(result), "worker").result->message, "a \xef\xbf\xbd b");
}

TEST(Messages, TasksComeBack) {
  WorkerSetup setup{"cuda", "cache", "work", {64, 512}, {}};
  setup.limits.fp8_flops_per_second = 1e15;
  const WorkerSetup back = parse_task(setup_line(setup), "w").setup.value();
  EXPECT_EQ(back.m, setup.m);
  EXPECT_EQ(back.limits.fp8_flops_per_second, 1e15);
  CellOrder order;
  order.cell = plan_cells(cpu_plan()).back();
  order.changes = {true, true, "smallest", "fp8", 4};
  order.smaller = false;
  order.inject = "killed";
  const CellOrder again = parse_task(order_line(order), "w").order.value();
  EXPECT_EQ(again.cell, order.cell);
  EXPECT_EQ(again.changes, order.changes);
  EXPECT_FALSE(again.smaller);
  EXPECT_EQ(again.inject, "killed");
  EXPECT_EQ(parse_task(describe_line("cpu", true), "w").describe, "cpu");
  EXPECT_TRUE(parse_words(loading_line(), "w").loading);
  EXPECT_TRUE(parse_words(loaded_line(), "w").loaded);
}

TEST(Messages, OthersAreRefused) {
  for (const char* text : {"", "[]", "{\"result\":[]}", "{\"result\":{\"class\":\"fine\"}}"})
    EXPECT_EQ(kind_of([&] { parse_words(text, "worker"); }), ErrorKind::kInput) << text;
}

TEST(Injection, IsReadFromWords) {
  const Injection injection = parse_injection("time_out@12x3");
  EXPECT_EQ(injection.what, "time_out");
  EXPECT_EQ(injected({injection}, 12, 3), "time_out");
  EXPECT_EQ(injected({injection}, 12, 4), "");
  EXPECT_EQ(injected({injection}, 11, 1), "");
  for (const char* text : {"", "time_out", "time_out@0", "time_out@1x", "nonsense@1", "killed@1x0"})
    EXPECT_EQ(kind_of([&] { parse_injection(text); }), ErrorKind::kUsage) << text;
}

TEST(Estimate, LearnsFromWhatWasMeasured) {
  std::vector<Cell> cells;
  for (const Cell& cell : plan_cells(cpu_plan())) {
    if (cell.phase == Phase::kDecode) cells.push_back(cell);
  }
  Estimator estimator(false);
  const double guess = estimator.seconds(cells.at(1));
  EXPECT_GT(guess, 0);
  estimator.learn(cells.at(0), 3 * estimator.seconds(cells.at(0)));
  EXPECT_NEAR(estimator.seconds(cells.at(1)), 3 * guess, 1e-9);
  estimator.learn(cells.at(1), 0.5);
  EXPECT_EQ(estimator.seconds(cells.at(1)), 0.5);
}

TEST(Progress, ComparesWithTheBestDenseCell) {
  PlanProgress progress(mission_plan({}), true);
  const auto result_of = [](double rate) {
    CellResult result;
    result.outcome = Class::kOk;
    result.measure("tokens_per_second", "tokens/s", rate);
    return result;
  };
  double rate = 100;
  for (CellState& state : progress.cells()) {
    const Cell& cell = state.cell;
    if (cell.phase != Phase::kPrefill || cell.model != "llama3.2-1b" || cell.dtype != "fp8" || cell.m != 512)
      continue;
    if (cell.pattern == "dense") {
      progress.note(state, result_of(rate), {});
      rate += 50;  // cutlass is the better one
    } else {
      EXPECT_EQ(progress.ratio_words(cell, 300, {}), ", 2.000 x dense");
      Changes changes;
      changes.alone = true;
      changes.weights = "smallest";
      EXPECT_EQ(progress.ratio_words(cell, 300, changes), ", 2.000 x dense");
      changes.by_rule = true;
      EXPECT_EQ(progress.ratio_words(cell, 300, changes), "") << "no dense kernels by rule";
    }
  }
  EXPECT_EQ(progress.totals().measured, 2);
  EXPECT_EQ(progress.ratio_words(progress.cells().back().cell, 300, {}), "") << "another model";
}

TEST(Estimate, DurationsAreWordsBothWays) {
  EXPECT_EQ(parse_duration("9m"), 540);
  EXPECT_EQ(parse_duration("1.5h"), 5400);
  EXPECT_EQ(parse_duration("90s"), 90);
  for (const char* text : {"", "9", "m", "9d", "-9m", "0s", "9 m", "inf"})
    EXPECT_FALSE(parse_duration(text)) << text;
  EXPECT_EQ(duration_words(59.6), "60 s");
  EXPECT_EQ(duration_words(540), "9 min");
  EXPECT_EQ(duration_words(12000), "3 h 20 min");
}

}  // namespace
}  // namespace slidesparse
