#include "sweep/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "sweep/sweep_test_tools.h"

namespace slidesparse {
namespace {

using test::query_number;
using test::query_text;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TempDir;

SweepMachine some_machine(const std::string& name) {
  SweepMachine machine;
  machine.device = "cuda";
  machine.name = name;
  machine.memory_bytes = 24 << 20;
  machine.driver = "13.0";
  machine.program_version = "0.1.0";
  machine.processor = "any";
  return machine;
}

Cell some_cell(std::int64_t m) {
  Cell cell;
  cell.model = "llama3.2-1b";
  cell.dtype = "int8";
  cell.backend = "auto";
  cell.pattern = "6:8";
  cell.layout = "slide";
  cell.m = m;
  return cell;
}

CellResult some_result() {
  CellResult result;
  result.outcome = Class::kOutOfMemory;
  result.message = "no room";
  result.needed_bytes = 10;
  result.free_bytes = 3;
  result.holders = {{"linears", 7}, {"KV cache", 3}};
  result.largest_m = 5;
  result.library = "cuda";
  result.library_code = 2;
  result.measurements = {{"tokens_per_second", "tokens/s", 2.5, 2.0, 3.0, 9},
                         {"seconds", "s", 0.1, {}, {}, {}}};
  result.attributes = {{"note", "a note"}};
  result.checks = {{"sequences", true, "5"}};
  result.seconds = 1.5;
  result.log = "last words";
  return result;
}

TEST(Journal, KeepsWhatAResultHas) {
  const TempDir directory;
  const auto file = directory / "results.db";
  SweepJournal journal(file);
  const std::int64_t machine = journal.machine(some_machine("card"));
  const std::int64_t plan = journal.plan("plan", "{}", {some_cell(1), some_cell(2)});
  EXPECT_EQ(journal.plan("plan", "{}", {some_cell(1), some_cell(2)}), plan);
  const std::int64_t run = journal.begin_run(plan, machine, SweepOwner::self(), "sweep");
  const std::int64_t cell = journal.find_cell(some_cell(2)).value();
  const std::int64_t attempt = journal.begin_attempt(cell, run, 42, "alone");
  EXPECT_EQ(query_number(file, "SELECT count(*) FROM attempt"), 1) << "written before it begins";
  journal.end_attempt(attempt, some_result(), true);
  journal.event(run, attempt, "info", "something");
  journal.end_run(run, "done");
  EXPECT_EQ(
      query_text(file,
                 "SELECT class || message || retry || needed_bytes || free_bytes || largest_m || library "
                 "|| library_code || holders || log || seconds FROM outcome"),
      R"(out_of_memoryno room11035cuda2{"linears":7,"KV cache":3}last words1.5)");
  EXPECT_EQ(
      query_text(file,
                 "SELECT group_concat(name || value || unit || ifnull(low, '-') || ifnull(samples, '-')) "
                 "FROM measurement"),
      "tokens_per_second2.5tokens/s2.09,seconds0.1s--");
  const auto past = journal.attempts(machine, false);
  ASSERT_EQ(past.at(cell).size(), 1U);
  EXPECT_EQ(past.at(cell).front().outcome, Class::kOutOfMemory);
  EXPECT_EQ(past.at(cell).front().figure, 2.5);
}

TEST(Journal, AResultIsThereWholeOrNotAtAll) {
  const TempDir directory;
  const auto file = directory / "results.db";
  SweepJournal journal(file);
  const std::int64_t run =
      journal.begin_run(journal.plan("plan", "{}", {some_cell(1)}), journal.machine(some_machine("card")),
                        SweepOwner::self(), "sweep");
  const std::int64_t attempt = journal.begin_attempt(journal.find_cell(some_cell(1)).value(), run, 42, "");
  CellResult twice = some_result();
  twice.measurements.push_back(twice.measurements.front());
  EXPECT_THAT(error_of([&] { journal.end_attempt(attempt, twice, false); }), HasSubstr("UNIQUE"));
  EXPECT_EQ(query_number(file, "SELECT (SELECT count(*) FROM outcome) + (SELECT count(*) FROM measurement)"),
            0);
  EXPECT_EQ(journal.close_interrupted(), 1);
  EXPECT_EQ(journal.close_interrupted(), 0);
  EXPECT_EQ(query_text(file, "SELECT class FROM outcome"), "interrupted");
}

TEST(Journal, FiguresBelongToAKindOfMachine) {
  const TempDir directory;
  SweepJournal journal(directory / "results.db");
  const std::int64_t plan = journal.plan("plan", "{}", {some_cell(1)});
  const SweepMachine card = some_machine("card");
  const std::int64_t here = journal.machine(card);
  const std::int64_t cell = journal.find_cell(some_cell(1)).value();
  CellResult good = some_result();
  good.outcome = Class::kOk;
  journal.end_attempt(
      journal.begin_attempt(cell, journal.begin_run(plan, here, SweepOwner::self(), "sweep"), 1, ""), good,
      false);

  SweepMachine elsewhere = card;  // the same card on another host
  elsewhere.processor = "another";
  elsewhere.threads = 99;
  EXPECT_EQ(journal.machine(elsewhere), here);
  SweepMachine newer = card;
  newer.driver = "13.1";
  const std::int64_t updated = journal.machine(newer);
  EXPECT_NE(updated, here);
  EXPECT_TRUE(journal.attempts(updated, false).empty());
  EXPECT_EQ(journal.attempts(updated, true).size(), 1U);
  EXPECT_EQ(journal.cells_of_other_versions(plan, updated), 1);
  EXPECT_EQ(journal.cells_of_other_versions(plan, here), 0);
  const std::int64_t other = journal.machine(some_machine("other card"));
  EXPECT_TRUE(journal.attempts(other, true).empty());
  SweepMachine larger = newer;
  larger.memory_bytes *= 2;
  const std::int64_t with_more = journal.machine(larger);
  EXPECT_TRUE(journal.attempts(with_more, true).empty());
  EXPECT_EQ(journal.cells_of_other_versions(plan, with_more), 0);
}

TEST(Lock, SaysWhoHoldsItAndWhoLeftIt) {
  const TempDir directory;
  const auto database = directory / "results.db";
  SweepOwner owner = SweepOwner::self();
  EXPECT_EQ(SweepLock::holder(database), "");
  EXPECT_NE(owner.boot_id, "");
  {
    const SweepLock lock(database, owner);
    EXPECT_EQ(lock.left_by(), "");
    EXPECT_EQ(SweepLock::holder(database), owner.words());
    EXPECT_THAT(error_of([&] { const SweepLock second(database, owner); }), HasSubstr(owner.words()));
  }
  EXPECT_EQ(SweepLock::holder(database), "");
  // Its owner was killed: the file is there, the lock is not.
  owner.pid = 4'000'000;
  std::ofstream(database.string() + ".lock") << owner.words() << "\n";
  const SweepLock lock(database, SweepOwner::self());
  EXPECT_EQ(lock.left_by(), owner.words());
}

}  // namespace
}  // namespace slidesparse
