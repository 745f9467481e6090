#include "sweep/sweep.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "slidesparse/core/error.h"
#include "sweep/lock.h"
#include "sweep/status.h"
#include "sweep/sweep_test_tools.h"

namespace slidesparse {
namespace {

using test::query_number;
using test::query_text;
using test::SweepFolder;
using ::testing::Contains;
using testing::error_of;
using ::testing::HasSubstr;

constexpr const char* kEveryCellOnce =
    "SELECT count(*) FROM (SELECT attempt.cell FROM attempt JOIN outcome ON outcome.attempt = attempt.id "
    "WHERE "
    "outcome.class = 'ok' GROUP BY attempt.cell HAVING count(*) = 1)";

TEST(Sweep, MeasuresEveryCellOnceAndThenNothing) {
  const SweepFolder folder;
  std::vector<std::string> lines;
  const SweepTotals totals = run_sweep(folder.options(folder.plan(), &lines));
  EXPECT_EQ(totals.cells, 8);
  EXPECT_EQ(totals.measured, 8);
  EXPECT_EQ(totals.end, "done");
  EXPECT_EQ(query_number(folder.database(), kEveryCellOnce), 8);
  EXPECT_EQ(query_number(folder.database(), "SELECT count(DISTINCT worker) FROM attempt"), 2)
      << "one process for each model and pattern";
  EXPECT_THAT(lines, Contains(AllOf(HasSubstr("[8/8] + decode"), HasSubstr("tokens/s; 0 open"))));
  // Every figure of the contract is there, of every cell, with samples where there are any.
  for (const char* name : {"tokens_per_second", "seconds", "step_tokens", "sequences", "weight_bytes",
                           "sparse_share", "share_of_limit", "load_seconds"}) {
    EXPECT_EQ(query_number(folder.database(),
                           std::string("SELECT count(*) FROM measurement WHERE name = '") + name + "'"),
              8)
        << name;
  }
  EXPECT_EQ(
      query_number(folder.database(),
                   "SELECT count(*) FROM measurement WHERE name = 'tokens_per_second' AND NOT (low <= value "
                   "AND value <= high AND samples > 0)"),
      0);
  for (const char* check : {"greedy", "sequences"}) {
    EXPECT_EQ(
        query_number(folder.database(),
                     fmt::format(R"(SELECT count(*) FROM "check" WHERE passed = 1 AND name = '{}')", check)),
        8)
        << check;
  }
  EXPECT_EQ(
      query_number(folder.database(),
                   "SELECT count(*) FROM measurement JOIN attempt ON attempt.id = attempt JOIN cell ON "
                   "cell.id = attempt.cell WHERE name = 'sparse_share' AND (value > 0) <> (pattern = '6:8')"),
      0);
  EXPECT_FALSE(std::filesystem::exists(folder.path("work")));

  run_sweep(folder.options());
  EXPECT_EQ(query_number(folder.database(), "SELECT count(*) FROM attempt"), 8);
  EXPECT_EQ(query_text(folder.database(), "SELECT group_concat(reason) FROM run_end"), "done,done");
}

TEST(Sweep, ConvertsTunesAndEvaluates) {
  const SweepFolder folder;
  SweepPlan plan = folder.plan();
  plan.models.push_back(folder.path("plain").string());
  plan.dtypes.emplace_back("bf16");
  plan.prefill.reset();
  plan.decode.reset();
  plan.convert = ConvertPhase{{"2:4", "6:8"}};
  plan.tune = TunePhase{{2}};
  testing::write_text(folder.path("text"),
                      "some words that are evaluated, some of them twice, some of them twice");
  plan.eval = EvalPhase{folder.path("text").string(), 0};
  const SweepTotals totals = run_sweep(folder.options(plan));
  EXPECT_EQ(totals.cells, 4 + 3 + 3);
  EXPECT_EQ(totals.measured, totals.cells)
      << query_text(folder.database(), "SELECT group_concat(message) FROM outcome");
  EXPECT_EQ(query_number(folder.database(),
                         "SELECT count(*) FROM attribute WHERE name = 'sha256' AND length(value) = 64"),
            4);
  EXPECT_EQ(
      query_number(folder.database(), "SELECT count(*) FROM measurement WHERE name = 'bytes' AND value > 0"),
      4);
  EXPECT_EQ(query_number(folder.database(),
                         "SELECT count(*) FROM measurement WHERE name = 'perplexity' AND value > 1"),
            3);
  EXPECT_EQ(query_number(folder.database(),
                         "SELECT count(*) FROM measurement WHERE name = 'kernels' AND value > 0"),
            3);
  EXPECT_TRUE(std::filesystem::exists(folder.path("tuning.json")));
  EXPECT_TRUE(std::filesystem::exists(folder.path("plain"))) << "a source that is the user's";
}

TEST(Sweep, TimesSingleLinears) {
  const SweepFolder folder;
  SweepPlan plan = folder.plan();
  plan.models = {"smollm2-135m"};
  plan.rows = {{"cpu", {"6:8"}}};
  plan.prefill.reset();
  plan.decode.reset();
  plan.gemm = GemmPhase{{2}, 0.01};
  EXPECT_EQ(run_sweep(folder.options(plan)).measured, 1);
  EXPECT_EQ(query_text(folder.database(),
                       "SELECT group_concat(name) FROM (SELECT name FROM measurement ORDER BY name)"),
            "flops,seconds,seconds.down,seconds.gate_up,seconds.o,seconds.qkv,share_of_limit");
  EXPECT_EQ(query_number(folder.database(),
                         "SELECT abs(sum(CASE name WHEN 'seconds' THEN -value ELSE value END)) < 1e-9 FROM "
                         "measurement WHERE name LIKE 'seconds%'"),
            1);
  EXPECT_EQ(query_number(folder.database(), R"(SELECT count(*) FROM "check" WHERE passed = 1)"), 4);
}

TEST(Sweep, PlansShareCells) {
  const SweepFolder folder;
  run_sweep(folder.options());
  SweepPlan more = folder.plan();
  more.name = "more";
  more.prefill->m = {4, 20, 30};
  std::int64_t listed = 0;
  const SweepTotals before = plan_sweep(folder.options(more), [&](const Cell& cell, double seconds) {
    ++listed;
    EXPECT_EQ(cell.m, 30);
    EXPECT_GT(seconds, 0);
  });
  EXPECT_EQ(listed, 2);
  EXPECT_EQ(before.measured, 8);
  const SweepTotals totals = run_sweep(folder.options(more));
  EXPECT_EQ(totals.measured, 10);
  EXPECT_EQ(query_number(folder.database(), "SELECT count(*) FROM cell"), 10);
  EXPECT_EQ(query_number(folder.database(), "SELECT count(*) FROM attempt"), 10);
}

TEST(Sweep, StopsBeforeItsDeadlineAndGoesOn) {
  const SweepFolder folder;
  SweepOptions hurried = folder.options();
  hurried.deadline = 1e-3;
  SweepTotals totals = run_sweep(hurried);
  EXPECT_EQ(totals.end, "deadline");
  EXPECT_EQ(totals.open, 8);
  EXPECT_EQ(query_number(folder.database(), "SELECT count(*) FROM attempt"), 0);

  // A cell that takes longer than was thought is ended with the sweep, and is not held against it.
  hurried.deadline = 4;
  hurried.injections = {parse_injection("time_out@2")};
  totals = run_sweep(hurried);
  EXPECT_EQ(totals.end, "deadline");
  EXPECT_EQ(query_text(folder.database(), "SELECT class FROM outcome ORDER BY attempt DESC LIMIT 1"),
            "interrupted");
  EXPECT_EQ(run_sweep(folder.options()).measured, 8);
  EXPECT_EQ(query_number(folder.database(), kEveryCellOnce), 8);
}

TEST(Sweep, AnotherIsRefusedWithTheFirstsName) {
  const SweepFolder folder;
  SweepOwner owner = SweepOwner::self();
  owner.host = "other-host";
  const SweepLock lock(folder.database(), owner);
  EXPECT_THAT(error_of([&] { run_sweep(folder.options()); }),
              AllOf(HasSubstr("another sweep is on it: pid"), HasSubstr("other-host"),
                    HasSubstr(owner.boot_id), HasSubstr(owner.started_at)));
}

TEST(Sweep, StatusSaysWhatIsThere) {
  const SweepFolder folder;
  SweepOptions options = folder.options();
  options.injections = {parse_injection("failed@8")};
  run_sweep(options);
  const std::string status = sweep_status(folder.database());
  EXPECT_THAT(status, HasSubstr("8 cells, 7 measured, 1 given up, 0 open"));
  EXPECT_THAT(status, HasSubstr("no sweep is running"));
  EXPECT_THAT(status, HasSubstr("failed: asked to fail"));
}

TEST(Sweep, WhatWasGivenUpIsTriedAgainWhenAsked) {
  const SweepFolder folder;
  SweepOptions options = folder.options();
  options.injections = {parse_injection("failed@8")};
  EXPECT_EQ(run_sweep(options).given_up, 1);
  EXPECT_EQ(run_sweep(folder.options()).given_up, 1);
  options = folder.options();
  options.retry_failed = true;
  EXPECT_EQ(run_sweep(options).measured, 8);
  EXPECT_EQ(query_number(folder.database(), "SELECT max(number) FROM attempt"), 2);
}

// A card that is lost takes every process with it that looks for it: a sweep must not run through its cells
// then.
TEST(Sweep, StopsWhenTheMachineIsGoneAndGoesOn) {
  const SweepFolder folder;
  SweepOptions options = folder.options();
  const std::string gone = folder.path("gone").string();
  std::string program;
  for (const std::string& word : options.worker) program += " " + word;
  options.worker = {"/bin/sh", "-c", "test -e " + gone + " && exit 1; exec" + program};
  options.say = [&](const std::string& line) {
    if (line.starts_with("[1/8]")) testing::write_text(gone, "");
  };
  options.injections = {parse_injection("killed@2")};
  EXPECT_THAT(error_of([&] { run_sweep(options); }), HasSubstr("the machine is not what it was"));
  EXPECT_EQ(query_text(folder.database(), "SELECT group_concat(class) FROM outcome"), "ok,interrupted");
  EXPECT_EQ(query_text(folder.database(), "SELECT reason FROM run_end"), "failed");
  EXPECT_EQ(run_sweep(folder.options()).measured, 8);
}

TEST(Sweep, AMachineThatDoesNotAnswerIsSaid) {
  const SweepFolder folder;
  SweepOptions options = folder.options();
  options.worker = {"/bin/false"};
  EXPECT_THAT(error_of([&] { run_sweep(options); }),
              HasSubstr("asked what this machine is: its process ended with exit status 1"));
}

}  // namespace
}  // namespace slidesparse
