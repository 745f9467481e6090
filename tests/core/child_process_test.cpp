#include "core/child_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <string>
#include <thread>

#include "core/samples.h"

namespace slidesparse {
namespace {

using ::testing::HasSubstr;
using Got = ChildProcess::Got;

std::vector<std::string> shell(const std::string& script) {
  return {"/bin/sh", "-c", script};
}

std::string line_of(ChildProcess& child) {
  std::string line;
  return child.next_line(now_seconds() + 10, line) == Got::kLine ? line : "no line";
}

TEST(ChildProcess, SpeaksInLinesBothWays) {
  ChildProcess child(shell("while read -r word <&3; do echo \"got $word\" >&3; done; echo end >&3"));
  EXPECT_TRUE(child.send_line("one"));
  EXPECT_TRUE(child.send_line("two"));
  EXPECT_EQ(line_of(child), "got one");
  EXPECT_EQ(line_of(child), "got two");
  child.close_input();
  EXPECT_EQ(line_of(child), "end");
  std::string line;
  EXPECT_EQ(child.next_line(now_seconds() + 10, line), Got::kClosed);
  EXPECT_EQ(child.wait(10), 0);
}

TEST(ChildProcess, KeepsTheLastOfWhatIsPrinted) {
  ChildProcess child(shell("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo over >&2"));
  EXPECT_EQ(child.wait(30), 0);
  const std::string log = child.take_log();
  EXPECT_EQ(log.size(), 4096U);
  EXPECT_THAT(log, HasSubstr("line 2999\nover\n"));
  EXPECT_EQ(child.take_log(), "");
}

TEST(ChildProcess, WaitsNoLongerThanItIsTold) {
  ChildProcess child(shell("sleep 100"));
  const double start = now_seconds();
  std::string line;
  EXPECT_EQ(child.next_line(start + 0.1, line), Got::kTimeOut);
  const int status = child.wait(0.1);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_LT(now_seconds() - start, 10);
}

TEST(ChildProcess, IsKilledWithWhatItHasStarted) {
  std::string grandchild;
  {
    ChildProcess child(shell("sleep 100 & echo $! >&3; wait"));
    grandchild = line_of(child);
  }
  const auto pid = static_cast<pid_t>(std::stoi(grandchild));
  // It is whoever adopts orphans that buries it.
  bool gone = false;
  for (int i = 0; i < 5000 && !gone; ++i) {
    std::string state = "gone";
    std::ifstream file("/proc/" + grandchild + "/stat");
    for (int field = 0; field < 3 && file >> state; ++field) {
    }
    gone = ::kill(pid, 0) != 0 || state == "Z";
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(gone);
}

TEST(ChildProcess, AProgramThatIsNotThereEnds) {
  ChildProcess child({"/nowhere/program"});
  std::string line;
  EXPECT_EQ(child.next_line(now_seconds() + 10, line), Got::kClosed);
  const int status = child.wait(10);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 127);
  EXPECT_FALSE(child.send_line("anything"));
}

}  // namespace
}  // namespace slidesparse
