// kill -9 of a sweep or of its worker at any moment: nothing that was measured is lost, nothing is there
// twice, and the report is that of an undisturbed sweep but for times. SLIDESPARSE_KILLS says how many times
// (6).
#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <random>
#include <set>
#include <string>
#include <thread>

#include "core/samples.h"
#include "io/json.h"
#include "sweep/sqlite.h"
#include "sweep/sweep_test_tools.h"

namespace slidesparse {
namespace {

using test::query_number;
using test::query_text;
using test::SweepFolder;

class RunningSweep {
 public:
  // `most_bytes`: files cannot grow beyond that, as on a full disk; 0: no limit.
  explicit RunningSweep(const SweepFolder& folder, rlim_t most_bytes = 0) {
    const std::string plan = folder.path("plan.json").string(), database = folder.database().string(),
                      cache = folder.path("tuning.json").string();
    pid_ = ::fork();
    if (pid_ == 0) {
      if (most_bytes > 0) {
        const rlimit limit{most_bytes, most_bytes};
        ::setrlimit(RLIMIT_FSIZE, &limit);
        std::signal(SIGXFSZ, SIG_IGN);
      }
      ::execl(SLIDESPARSE_PROGRAM, "slidesparse", "--quiet", "--threads", "1", "sweep", plan.c_str(), "--db",
              database.c_str(), "--retry-failed", "--cache", cache.c_str(), static_cast<char*>(nullptr));
      ::_exit(127);
    }
  }
  ~RunningSweep() {
    if (pid_ > 0) end(SIGKILL);
  }
  RunningSweep(const RunningSweep&) = delete;
  RunningSweep& operator=(const RunningSweep&) = delete;

  pid_t pid() const { return pid_; }
  bool ended() {
    if (pid_ > 0 && ::waitpid(pid_, &status_, WNOHANG) == pid_) pid_ = -1;
    return pid_ < 0;
  }
  int end(int signal) {
    if (!ended()) {
      ::kill(pid_, signal);
      ::waitpid(pid_, &status_, 0);
      pid_ = -1;
    }
    return status_;
  }
  // Waits for its own end.
  int wait() {
    if (pid_ > 0) ::waitpid(pid_, &status_, 0);
    pid_ = -1;
    return status_;
  }

 private:
  pid_t pid_ = -1;
  int status_ = 0;
};

// A child of `parent`; 0 when it has none at the moment.
pid_t child_of(pid_t parent) {
  std::ifstream file("/proc/" + std::to_string(parent) + "/task/" + std::to_string(parent) + "/children");
  pid_t child = 0;
  file >> child;
  return child;
}

std::int64_t number_or_zero(const SweepFolder& folder, const std::string& sql) {
  try {
    return query_number(folder.database(), sql);
  } catch (const Error&) {
    return 0;  // there are no tables yet
  }
}

// Until it has begun a cell, or has ended.
void wait_for_attempt(const SweepFolder& folder, RunningSweep& sweep) {
  constexpr const char* kAttempts = "SELECT count(*) FROM attempt";
  const std::int64_t before = number_or_zero(folder, kAttempts);
  while (number_or_zero(folder, kAttempts) == before && !sweep.ended())
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

int kills() {
  const char* text = std::getenv("SLIDESPARSE_KILLS");
  return text == nullptr ? 6 : std::max(1, std::atoi(text));
}

std::int64_t disturbed_attempts(const SweepFolder& folder) {
  return query_number(folder.database(), "SELECT count(*) FROM outcome WHERE class <> 'ok'");
}

void remove_database(const SweepFolder& folder) {
  for (const char* end : {"", "-wal", "-shm", ".lock"})
    std::filesystem::remove(folder.database().string() + end);
}

// What a report says of the cells, without what a clock decides: identity, state, command, attributes, which
// figures there are, and those that are the same on every run.
Json lasting_report(const SweepFolder& folder) {
  const std::filesystem::path out = folder.path("report");
  const std::string command = fmt::format("'{}' --quiet report '{}' --out '{}'", SLIDESPARSE_PROGRAM,
                                          folder.database().string(), out.string());
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  const Json report = Json::parse(testing::read_text(out / "report.json"));
  Json lasting{{"count", report.at("count")}, {"sections", report.at("sections")}, {"cells", Json::array()}};
  for (Json cell : report.at("cells")) {
    for (const char* by_clock : {"attempts", "speed_up", "machine", "outcome"}) cell.erase(by_clock);
    for (auto& [name, figure] : cell.at("figures").items()) {
      static const std::set<std::string> kSame{"step_tokens",  "sequences", "weight_bytes",
                                               "sparse_share", "bytes",     "source_bytes"};
      if (kSame.count(name) == 0) figure = figure.at("unit");
    }
    lasting["cells"].push_back(std::move(cell));
  }
  return lasting;
}

TEST(Kill, LosesAndDoublesNothing) {
  const SweepFolder folder;
  SweepPlan plan = folder.plan();
  for (std::int64_t m = 21; m < 30; ++m) plan.prefill->m.push_back(m);
  plan.convert = ConvertPhase{{"6:8"}};
  plan.models.push_back(folder.path("plain").string());
  plan.dtypes.emplace_back("bf16");
  testing::write_text(folder.path("plan.json"), plan_to_json(plan));
  const auto cells = static_cast<std::int64_t>(plan_cells(plan).size());
  std::mt19937 random(20);
  std::int64_t recorded = 0;   // figures that were there at the last kill
  std::int64_t disturbed = 0;  // attempts that a kill met
  int done = 0, rounds = 0;
  const int wanted = kills();
  while (done < wanted) {
    // Once everything is measured there is nothing left to disturb.
    if (recorded == cells) {
      EXPECT_EQ(query_number(folder.database(),
                             "SELECT count(*) FROM attempt JOIN outcome ON outcome.attempt = "
                             "attempt.id WHERE class = 'ok'"),
                cells);
      disturbed += disturbed_attempts(folder);
      remove_database(folder);
      recorded = 0;
    }
    ++rounds;
    ASSERT_LT(rounds, 10 * wanted + 10) << "no sweep lives long enough to be killed";
    RunningSweep sweep(folder);
    // Sometimes at its start, mostly while cells run.
    if (std::uniform_int_distribution<int>(0, 3)(random) > 0) wait_for_attempt(folder, sweep);
    const double until = now_seconds() + std::uniform_real_distribution<double>(0, 0.4)(random);
    while (now_seconds() < until && !sweep.ended()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (sweep.ended()) {
      ASSERT_EQ(sweep.wait(), 0) << "nobody had touched it";
      recorded = cells;
      continue;
    }
    if (std::uniform_int_distribution<int>(0, 1)(random) == 0) {
      sweep.end(SIGKILL);
      ++done;
    } else if (const pid_t worker = child_of(sweep.pid()); worker > 0) {
      ::kill(worker, SIGKILL);
      ++done;
      if (std::uniform_int_distribution<int>(0, 1)(random) == 0) {
        sweep.end(SIGKILL);  // and the sweep, before it has written that down
      } else {
        sweep.wait();
      }
    }
    if (!std::filesystem::exists(folder.database())) continue;
    sweep.end(SIGKILL);
    const std::int64_t now = number_or_zero(folder, "SELECT count(*) FROM outcome WHERE class = 'ok'");
    EXPECT_GE(now, recorded) << "figures are lost";
    recorded = now;
  }
  RunningSweep last(folder);
  EXPECT_EQ(last.wait(), 0);
  EXPECT_EQ(
      query_number(folder.database(),
                   "SELECT count(*) FROM (SELECT attempt.cell FROM attempt JOIN outcome ON outcome.attempt = "
                   "attempt.id WHERE outcome.class = 'ok' GROUP BY attempt.cell HAVING count(*) = 1)"),
      cells);
  EXPECT_EQ(query_number(folder.database(),
                         "SELECT count(*) FROM attempt JOIN outcome ON outcome.attempt = attempt.id "
                         "WHERE class = 'ok'"),
            cells);
  EXPECT_EQ(query_number(folder.database(),
                         "SELECT count(*) FROM attempt WHERE id NOT IN (SELECT attempt FROM outcome)"),
            0);
  EXPECT_EQ(query_number(folder.database(),
                         "SELECT count(*) FROM outcome WHERE class NOT IN ('ok', 'interrupted', "
                         "'killed')"),
            0)
      << query_text(folder.database(), "SELECT group_concat(class || ': ' || message, '; ') FROM outcome");
  EXPECT_EQ(query_text(folder.database(), "PRAGMA integrity_check"), "ok");
  EXPECT_FALSE(std::filesystem::exists(folder.database().string() + ".work"));
  disturbed += disturbed_attempts(folder);
  EXPECT_GT(disturbed, 0) << "no kill met a cell";
  const Json after_kills = lasting_report(folder);
  EXPECT_EQ(after_kills.at("cells").size(), static_cast<std::size_t>(cells));
  remove_database(folder);
  RunningSweep undisturbed(folder);
  EXPECT_EQ(undisturbed.wait(), 0);
  EXPECT_EQ(after_kills, lasting_report(folder)) << Json::diff(after_kills, lasting_report(folder)).dump(1);
  ::testing::Test::RecordProperty("kills", done);
  ::testing::Test::RecordProperty("disturbed", static_cast<int>(disturbed));
  std::printf("%d kills, %d attempts were running\n", done, static_cast<int>(disturbed));
}

TEST(Kill, AFullDiskLosesOneCellAtMost) {
  const SweepFolder folder;
  SweepPlan plan = folder.plan();
  for (std::int64_t m = 21; m < 40; ++m) plan.prefill->m.push_back(m);
  testing::write_text(folder.path("plan.json"), plan_to_json(plan));
  RunningSweep limited(folder, 400'000);
  const int status = limited.wait();
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 1);
  const std::int64_t before =
      query_number(folder.database(), "SELECT count(*) FROM outcome WHERE class = 'ok'");
  EXPECT_GT(before, 0);
  RunningSweep again(folder);
  EXPECT_EQ(again.wait(), 0);
  EXPECT_EQ(query_number(folder.database(), "SELECT count(*) FROM outcome WHERE class = 'ok'"), 46);
  EXPECT_LE(query_number(folder.database(), "SELECT count(*) FROM outcome WHERE class <> 'ok'"), 1);
  EXPECT_EQ(query_text(folder.database(), "PRAGMA integrity_check"), "ok");
}

TEST(Kill, TheWorkerEndsWithItsSweep) {
  const SweepFolder folder;
  testing::write_text(folder.path("plan.json"), plan_to_json(folder.plan()));
  RunningSweep sweep(folder);
  pid_t worker = 0;
  for (int i = 0; i < 5000 && worker == 0; ++i) {
    worker = child_of(sweep.pid());
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ASSERT_GT(worker, 0);
  sweep.end(SIGKILL);
  bool gone = false;
  for (int i = 0; i < 5000 && !gone; ++i) {
    gone = ::kill(worker, 0) != 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(gone);
}

TEST(Kill, CtrlCFinishesTheRunningCell) {
  const SweepFolder folder;
  testing::write_text(folder.path("plan.json"), plan_to_json(folder.plan()));
  RunningSweep sweep(folder);
  wait_for_attempt(folder, sweep);
  const int status = sweep.end(SIGINT);
  ASSERT_TRUE(WIFEXITED(status));
  const bool early = query_number(folder.database(), "SELECT count(*) FROM outcome") < 8;
  EXPECT_EQ(WEXITSTATUS(status), early ? 1 : 0);
  EXPECT_EQ(query_text(folder.database(), "SELECT reason FROM run_end"), early ? "interrupted" : "done");
  EXPECT_EQ(query_number(folder.database(), "SELECT count(*) FROM outcome WHERE class <> 'ok'"), 0);
  EXPECT_EQ(query_number(folder.database(),
                         "SELECT count(*) FROM attempt WHERE id NOT IN (SELECT attempt FROM outcome)"),
            0);
}

}  // namespace
}  // namespace slidesparse
