// Ctrl-C (SIGINT) and SIGTERM sent to a running `slidesparse convert`. The moments do not depend on time: the
// process stops itself before a chosen call that changes files (stop_at_call.cpp) and waits for the signal.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "support.h"

namespace slidesparse {
namespace {

using namespace testing_support;

struct Outcome {
  int code = -1;    // exit code; -1 when a signal ended it
  int signal = 0;   // the signal that ended it
  int stopped = 0;  // how often it stopped and got a signal
  std::string err;
};

class Interrupted : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    make_model(space_ / "in");
    const Outcome undisturbed = run(convert_to("whole"), "", space_ / "calls");
    ASSERT_EQ(undisturbed.code, 0) << undisturbed.err;
    calls_ = std::stol(read_file(space_ / "calls"));
    want_ = snapshot(space_ / "whole");
  }

  std::vector<std::string> convert_to(const std::string& name) const {
    return {"convert", space_ / "in", space_ / name, "--pattern", "6:8", "--dtype",
            "int8",    "--head",      "int8",        "--threads", "2"};
  }

  // Runs the program; each time it stops itself (at the calls of `stop_at`), it gets the signal and goes on.
  Outcome run(std::vector<std::string> arguments, const std::string& stop_at,
              const std::filesystem::path& count_to = {}) const {
    const std::string err = space_ / "stderr";
    const std::string out = space_ / "stdout";
    const pid_t child = ::fork();
    if (child == 0) {
      ::setenv("LD_PRELOAD", SLIDESPARSE_STOP_AT_CALL, 1);
      // In such a build the library is loaded before ASan's own.
      ::setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1);
      ::setenv("SLIDESPARSE_STOP_AT", stop_at.c_str(), 1);
      if (!count_to.empty()) ::setenv("SLIDESPARSE_COUNT_TO", count_to.c_str(), 1);
      for (const auto& [file, fd] : {std::pair(out, STDOUT_FILENO), std::pair(err, STDERR_FILENO)}) {
        if (::dup2(::open(file.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600), fd) < 0) ::_exit(126);
      }
      arguments.insert(arguments.begin(), SLIDESPARSE_PROGRAM);
      std::vector<char*> argv;
      argv.reserve(arguments.size() + 1);
      for (std::string& argument : arguments) argv.push_back(argument.data());
      argv.push_back(nullptr);
      ::execv(SLIDESPARSE_PROGRAM, argv.data());
      ::_exit(127);
    }
    Outcome outcome;
    int status = 0;
    while (::waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status)) {
      ++outcome.stopped;
      ::kill(child, GetParam());
      ::kill(child, SIGCONT);
    }
    if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) outcome.signal = WTERMSIG(status);
    outcome.err = read_file(err);
    return outcome;
  }

  // One line of error, and nothing there that opens as a model.
  void expect_unfinished(const std::string& name) const {
    EXPECT_FALSE(std::filesystem::exists(space_ / name));
    const std::filesystem::path partial = space_ / (name + ".partial");
    ASSERT_TRUE(std::filesystem::exists(partial / "slidesparse.journal"));
    const Outcome inspect = run({"inspect", partial}, "");
    EXPECT_EQ(inspect.code, 1);
    EXPECT_THAT(inspect.err, ::testing::StartsWith("error: "));
    EXPECT_THAT(inspect.err, ::testing::HasSubstr(partial.string()));
    EXPECT_EQ(std::ranges::count(inspect.err, '\n'), 1) << inspect.err;
  }

  void expect_same_command_completes(const std::string& name) const {
    const Outcome again = run(convert_to(name), "");
    EXPECT_EQ(again.code, 0) << again.err;
    EXPECT_TRUE(snapshot(space_ / name) == want_);
    EXPECT_FALSE(std::filesystem::exists(space_ / (name + ".partial")));
  }

  std::int64_t finished_items(const std::string& name) const {
    const std::string journal = read_file(space_ / (name + ".partial") / "slidesparse.journal");
    return std::ranges::count(journal, '\n') - 1;  // the first line is the job's identity
  }

  const Workspace space_;
  long calls_ = 0;
  std::map<std::string, std::string> want_;
};

TEST_P(Interrupted, SaysHowToGoOnAndTheSameCommandEndsInTheSameBytes) {
  ASSERT_GT(calls_, 40);
  constexpr int kMoments = 12;
  int interrupted = 0;
  std::int64_t most_finished = 0;
  for (int i = 0; i < kMoments; ++i) {
    const long moment = 1 + i * (calls_ - 1) / (kMoments - 1);
    SCOPED_TRACE(::testing::Message() << "before call " << moment << " of " << calls_);
    const std::string name = "out" + std::to_string(i);
    const Outcome outcome = run(convert_to(name), std::to_string(moment));
    ASSERT_EQ(outcome.stopped, 1);
    if (outcome.code == 0) {  // all tensors had been written: it ends sooner by finishing
      EXPECT_TRUE(snapshot(space_ / name) == want_);
      continue;
    }
    ++interrupted;
    EXPECT_EQ(outcome.code, 1);
    EXPECT_THAT(outcome.err,
                ::testing::EndsWith(
                    "error: interrupted; what is finished is kept: run the same command again to go on\n"));
    expect_unfinished(name);
    most_finished = std::max(most_finished, finished_items(name));
    expect_same_command_completes(name);
  }
  EXPECT_GE(interrupted, 5);
  EXPECT_GT(most_finished, 5);  // what was finished was kept
}

TEST_P(Interrupted, AgainAndAgainOnTheSameDirectory) {
  std::int64_t finished = 0;
  int interrupted = 0;
  for (int round = 0; round < 6; ++round) {
    // Fewer calls are left each time.
    const Outcome outcome = run(convert_to("out"), std::to_string(calls_ / 8));
    if (outcome.code == 0) break;
    ++interrupted;
    EXPECT_EQ(outcome.code, 1) << outcome.err;
    expect_unfinished("out");
    EXPECT_GT(finished_items("out"), finished);
    finished = finished_items("out");
  }
  EXPECT_GE(interrupted, 2);
  if (!std::filesystem::exists(space_ / "out")) expect_same_command_completes("out");
  EXPECT_TRUE(snapshot(space_ / "out") == want_);
}

TEST_P(Interrupted, ASecondSignalEndsItAtOnce) {
  const long moment = calls_ / 2;
  const Outcome outcome = run(convert_to("out"), std::to_string(moment) + "," + std::to_string(moment + 1));
  EXPECT_EQ(outcome.stopped, 2);
  EXPECT_EQ(outcome.signal, GetParam()) << outcome.err;
  expect_unfinished("out");
  expect_same_command_completes("out");
}

std::string name_of_signal(const ::testing::TestParamInfo<int>& parameter) {
  return parameter.param == SIGINT ? "Int" : "Term";
}

INSTANTIATE_TEST_SUITE_P(Signals, Interrupted, ::testing::Values(SIGINT, SIGTERM), name_of_signal);

}  // namespace
}  // namespace slidesparse
