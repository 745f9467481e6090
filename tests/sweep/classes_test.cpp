// Each class of failure, had for real and recognised.
#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <vector>

#include "core/samples.h"
#include "sweep/failure.h"
#include "sweep/sweep_test_tools.h"
#include "sweep/worker_process.h"

namespace slidesparse {
namespace {

using test::query_number;
using test::query_text;
using test::SweepFolder;
using ::testing::HasSubstr;

struct Injected {
  std::string what, outcome;
  int attempts;           // that are made when it happens each time
  std::string condition;  // on the rows of outcome
};

const std::vector<Injected>& all_injected() {
  static const std::vector<Injected> kAll{
      {"out_of_memory", "out_of_memory", 3, "needed_bytes >= 1152921504606846976"},
      {"does_not_fit", "does_not_fit", 1, "needed_bytes > free_bytes AND holders LIKE '%KV cache%'"},
      {"illegal_access", "illegal_access", 3, "signal = 11"},
      {"illegal_instruction", "illegal_instruction", 3, "signal = 4"},
      {"time_out", "time_out", 2, "message LIKE 'no answer after 1.5 s%' AND signal IS NULL"},
      {"wrong_result", "wrong_result", 2, "message LIKE '%instead of%'"},
      {"unsupported", "unsupported", 1, "message <> ''"},
      {"library_error", "library_error", 3, "library = 'cublaslt' AND library_code = 14"},
      {"killed", "killed", 3, "signal = 9"},
      {"exit", "killed", 3, "exit_status = 3"},
      {"failed", "failed", 1, "message = 'asked to fail'"}};
  return kAll;
}

// Every attempt of every second cell fails, each in another way; the cells between them do not.
TEST(Classes, AreRecognisedAndLeaveTheOthersAlone) {
  const SweepFolder folder;
  SweepPlan plan = folder.plan();
  plan.models = {folder.path("sparse").string()};
  plan.decode.reset();
  plan.prefill->m.clear();
  plan.time_limits.cell.fill(1.5);
  SweepOptions options = folder.options(plan);
  const auto failing = static_cast<std::int64_t>(all_injected().size());
  for (std::int64_t m = 1; m <= 2 * failing; ++m) {
    plan.prefill->m.push_back(m);
    if (m % 2 == 0)
      options.injections.push_back({all_injected()[static_cast<std::size_t>(m / 2 - 1)].what, m, 9});
  }
  options.plan = plan;
  options.plan_text = plan_to_json(plan);
  const SweepTotals totals = run_sweep(options);
  EXPECT_EQ(totals.measured, failing);
  EXPECT_EQ(totals.given_up, failing);
  for (std::int64_t i = 0; i < failing; ++i) {
    const Injected& injected = all_injected()[static_cast<std::size_t>(i)];
    SCOPED_TRACE(injected.what);
    const std::string of_cell = fmt::format(
        "FROM outcome JOIN attempt ON attempt.id = outcome.attempt JOIN cell ON cell.id = attempt.cell "
        "WHERE cell.m = {} AND class = '{}'",
        2 * (i + 1), injected.outcome);
    const auto count = [&](const std::string& condition) {
      return query_number(folder.database(), fmt::format("SELECT count(*) {} AND {}", of_cell, condition));
    };
    EXPECT_EQ(count("TRUE"), injected.attempts);
    EXPECT_EQ(count(injected.condition), injected.attempts)
        << query_text(folder.database(), "SELECT ifnull(group_concat(message || log), '') " + of_cell);
    EXPECT_EQ(count("retry = 1"), injected.attempts - 1);
    // A process that is in an unknown state is not used again.
    const bool spoils = spoils_worker(parse_class(injected.outcome, "test"));
    const std::string of_worker = fmt::format(
        "SELECT count(*) FROM attempt JOIN cell ON cell.id = attempt.cell WHERE cell.m > {} AND worker IN "
        "(SELECT worker {})",
        2 * (i + 1), of_cell);
    EXPECT_EQ(query_number(folder.database(), of_worker) == 0, spoils);
  }
}

TEST(Classes, ASecondAttemptThatWorksIsTheCells) {
  const SweepFolder folder;
  SweepOptions options = folder.options();
  options.injections = {parse_injection("killed@3"), parse_injection("out_of_memory@6")};
  const SweepTotals totals = run_sweep(options);
  EXPECT_EQ(totals.measured, 8);
  EXPECT_EQ(query_number(folder.database(), "SELECT count(*) FROM attempt"), 10);
  EXPECT_EQ(query_text(folder.database(), "SELECT group_concat(changed, '; ') FROM attempt WHERE number = 2"),
            "alone; alone, in 2 chunks");
  // 20 tokens are one prompt, which is not cut.
  EXPECT_EQ(query_number(folder.database(),
                         "SELECT count(*) FROM measurement WHERE name = 'step_tokens' AND value = 20"),
            2);
}

TEST(Classes, TheWorkersLastWordsAreKept) {
  WorkerProcess worker({"/bin/sh", "-c", "echo first; echo last words >&2; exit 5"}, {});
  const CellResult result = worker.run({}, {10, 10, now_seconds() + 10});
  EXPECT_EQ(result.outcome, Class::kKilled);
  EXPECT_EQ(result.exit_status, 5);
  EXPECT_THAT(result.log, HasSubstr("last words"));
  EXPECT_FALSE(worker.alive());
}

TEST(Classes, AnswersThatAreNoneAreFailures) {
  WorkerProcess worker({"/bin/sh", "-c", "echo '{\"result\":{\"class\":\"fine\"}}' >&3; sleep 10"}, {});
  const CellResult result = worker.run({}, {10, 10, now_seconds() + 10});
  EXPECT_EQ(result.outcome, Class::kFailed);
  EXPECT_FALSE(worker.alive());
}

ErrorFacts cuda(int status) {
  ErrorFacts facts;
  facts.cuda_status = status;
  return facts;
}

TEST(Classes, OfCudaStatuses) {
  const auto of = [](int status) {
    const ErrorFacts facts = cuda(status);
    return classify(ErrorKind::kInternal, &facts);
  };
  EXPECT_EQ(of(2), Class::kOutOfMemory);
  EXPECT_EQ(of(700), Class::kIllegalAccess);
  EXPECT_EQ(of(716), Class::kIllegalAccess);
  EXPECT_EQ(of(715), Class::kIllegalInstruction);
  EXPECT_EQ(of(702), Class::kTimeOut);
  EXPECT_EQ(of(209), Class::kUnsupported);
  EXPECT_EQ(of(719), Class::kLibraryError);
}

TEST(Classes, OfProcesses) {
  ProcessEnd end;
  end.signal = SIGBUS;
  EXPECT_EQ(classify(end), Class::kIllegalAccess);
  end.signal = SIGABRT;
  EXPECT_EQ(classify(end), Class::kKilled);
  EXPECT_THAT(process_end_words(end, 1), HasSubstr("signal 6"));
  end.timed_out = true;
  EXPECT_EQ(classify(end), Class::kTimeOut);
}

TEST(Classes, NamesComeBack) {
  for (int i = 0; i < kClasses; ++i) {
    const auto outcome = static_cast<Class>(i);
    EXPECT_EQ(parse_class(class_name(outcome), "test"), outcome);
  }
}

Cell bench_cell(Phase phase) {
  Cell cell;
  cell.phase = phase;
  cell.options.kv_cache_dtype = "bf16";
  cell.options.weights = "fastest";
  return cell;
}

TEST(Retries, WhatDoesNotFitIsTriedWithASmallerCacheOnce) {
  const Cell cell = bench_cell(Phase::kDecode);
  const std::vector<Class> once{Class::kDoesNotFit};
  NextStep next = next_step(cell, once, {3, true});
  EXPECT_TRUE(next.open);
  EXPECT_EQ(changes_words(next.changes), "kv_cache_dtype fp8");
  EXPECT_FALSE(next_step(cell, once, {3, false}).open) << "the CPU has no such cache";
  EXPECT_FALSE(next_step(bench_cell(Phase::kPrefill), once, {3, true}).open);
  EXPECT_FALSE(next_step(cell, std::vector<Class>{Class::kDoesNotFit, Class::kDoesNotFit}, {3, true}).open);
}

TEST(Retries, ChangesAddUp) {
  const std::vector<Class> past{Class::kOutOfMemory, Class::kOutOfMemory};
  EXPECT_EQ(changes_words(next_step(bench_cell(Phase::kPrefill), past, {9, true}).changes),
            "alone, weights smallest, in 4 chunks");
  const std::vector<Class> mixed{Class::kDoesNotFit, Class::kIllegalAccess};
  EXPECT_EQ(changes_words(next_step(bench_cell(Phase::kDecode), mixed, {9, true}).changes),
            "alone, kernels by rule, kv_cache_dtype fp8");
}

TEST(Retries, InterruptionsAreNotHeldAgainstACell) {
  const std::vector<Class> past(20, Class::kInterrupted);
  const NextStep next = next_step(bench_cell(Phase::kPrefill), past, {3, false});
  EXPECT_TRUE(next.open);
  EXPECT_TRUE(next.changes.alone);
}

TEST(Retries, StopAtTheStatedNumber) {
  const std::vector<Class> past{Class::kKilled, Class::kTimeOut};
  EXPECT_TRUE(next_step(bench_cell(Phase::kPrefill), past, {3, false}).open);
  EXPECT_FALSE(next_step(bench_cell(Phase::kPrefill), past, {2, false}).open);
}

// What a database says of an attempt is what the attempt did.
TEST(Retries, WordsOfChangesComeBack) {
  Changes changes;
  EXPECT_EQ(parse_changes(changes_words(changes)), changes);
  changes.alone = true;
  EXPECT_EQ(parse_changes("alone"), changes);
  EXPECT_EQ(unlike_words(changes), "");
  changes.weights = "smallest";
  EXPECT_EQ(unlike_words(changes), "");
  changes.by_rule = true;
  changes.kv_cache_dtype = "fp8";
  changes.chunks = 16;
  EXPECT_EQ(parse_changes(changes_words(changes)), changes);
  EXPECT_EQ(unlike_words(changes), "kernels by rule, kv_cache_dtype fp8, in 16 chunks");
  EXPECT_EQ(parse_changes(
                "alone, in the rain, , kernels by rule, in 16 chunks, kv_cache_dtype fp8, weights smallest"),
            changes);
}

}  // namespace
}  // namespace slidesparse
