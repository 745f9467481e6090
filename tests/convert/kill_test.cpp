#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>

#include "convert/convert.h"
#include "core/parallel.h"
#include "core/random.h"
#include "core/samples.h"
#include "io/file_writer.h"
#include "io/model_directory.h"
#include "support.h"

namespace slidesparse {
namespace {

using namespace testing_support;

// Runs a conversion in a process of its own that dies like kill -9 at its `deadline`-th call that changes the
// disk (0: never). Returns whether it was killed.
bool convert_in_child(const ConvertOptions& options, std::int64_t deadline, std::int64_t* calls = nullptr) {
  int pipe_ends[2];
  EXPECT_EQ(::pipe(pipe_ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    // Threads of OpenMP do not survive a fork: this process works alone.
    set_thread_count(1);
    const FileOps system = FileOps::system();
    static std::int64_t count = 0;
    const auto tick = [deadline] {
      if (++count == deadline) ::kill(::getpid(), SIGKILL);
    };
    FileOps& ops = file_ops();
    ops.open = [system, tick](const char* path, int flags, int mode) {
      return tick(), system.open(path, flags, mode);
    };
    ops.pwrite = [system, tick, deadline](int fd, const void* data, std::size_t bytes, std::int64_t offset) {
      // Before, or with half of it written.
      if (count + 1 == deadline) system.pwrite(fd, data, bytes / 2, offset);
      return tick(), system.pwrite(fd, data, bytes, offset);
    };
    ops.truncate = [system, tick](int fd, std::int64_t size) { return tick(), system.truncate(fd, size); };
    ops.sync = [tick](int) { return tick(), 0; };
    ops.rename = [system, tick](const char* from, const char* to) {
      const int result = system.rename(from, to);
      tick();  // after: the moment between the rename and what follows
      return result;
    };
    int status = 0;
    try {
      convert_model(options);
    } catch (const std::exception& error) {
      status = 3;
      static_cast<void>(!::write(STDERR_FILENO, error.what(), std::string_view(error.what()).size()));
    }
    static_cast<void>(!::write(pipe_ends[1], &count, sizeof(count)));
    ::_exit(status);
  }
  ::close(pipe_ends[1]);
  std::int64_t total = 0;
  const bool reported = ::read(pipe_ends[0], &total, sizeof(total)) == sizeof(total);
  ::close(pipe_ends[0]);
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  if (WIFSIGNALED(status)) return true;
  EXPECT_TRUE(reported && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  if (calls != nullptr) *calls = total;
  return false;
}

// What the journal has left is a result; what holds a journal never opens as a model.
bool complete(const std::filesystem::path& target) {
  return std::filesystem::exists(target) && !std::filesystem::exists(target / "slidesparse.journal");
}

void expect_no_half_model(const std::filesystem::path& target) {
  if (std::filesystem::exists(target) && !complete(target)) {
    EXPECT_NE(error_of([&] { ModelDirectory{target}; }), "");
  }
  const std::filesystem::path partial = target.string() + ".partial";
  if (std::filesystem::exists(partial)) {
    EXPECT_NE(error_of([&] { ModelDirectory{partial}; }), "");
  }
}

class KillAtFiftyMoments : public ::testing::TestWithParam<bool> {};

TEST_P(KillAtFiftyMoments, TheSameCommandEndsInTheSameBytes) {
  const bool force = GetParam();
  const Workspace space;
  make_model(space / "in");
  const auto source = snapshot(space / "in");
  ConvertOptions options = options_for(space / "in", space / "whole");
  options.commit_bytes = 4096;  // many small commits: many states to die in
  options.shard_bytes = 20'000;
  options.force = force;
  const auto old_target = [&](const std::filesystem::path& target) {
    if (force) save_model(target, "{}", {{"old", DType::kI8, {1}, "x"}});
  };
  old_target(options.target);
  std::int64_t calls = 0;
  ASSERT_FALSE(convert_in_child(options, 0, &calls));
  ASSERT_GT(calls, 100);
  const auto want = snapshot(space / "whole");

  Random random(force ? 5 : 6);
  int kills = 0;
  int resumed_kills = 0;
  for (int trial = 0; trial < 50; ++trial) {
    // The first and last moments for certain, the others anywhere.
    std::int64_t deadline = trial == 0 ? 1 : trial < 6 ? calls - trial + 1 : 1 + random.below(calls);
    options.target = space / ("out" + std::to_string(trial));
    old_target(options.target);
    const auto old = force ? snapshot(options.target) : std::map<std::string, std::string>{};
    // How finished items are batched depends on time: a run may need fewer calls and end before the deadline.
    // Then it is another run's turn, a little earlier.
    bool killed = convert_in_child(options, deadline);
    while (!killed && deadline > 1) {
      std::filesystem::remove_all(options.target);
      old_target(options.target);
      deadline = std::max<std::int64_t>(1, deadline - 1 - deadline / 20);
      killed = convert_in_child(options, deadline);
    }
    SCOPED_TRACE(testing::Message() << "killed at call " << deadline << " of " << calls);
    if (killed) ++kills;
    if (!force) expect_no_half_model(options.target);
    if (force) {
      // Old or new (perhaps with the journal still there), never nothing and never half of it.
      auto now = snapshot(options.target);
      now.erase("slidesparse.journal");
      EXPECT_TRUE(now == old || now == want);
    }
    // Half of the trials die a second time while they go on.
    const auto done = [&] { return !force && complete(options.target); };
    if (trial % 2 == 1 && !done() && convert_in_child(options, 1 + random.below(calls / 2))) ++resumed_kills;
    if (!done()) {
      ASSERT_FALSE(convert_in_child(options, 0));
    }
    EXPECT_TRUE(snapshot(options.target) == want);
    EXPECT_FALSE(std::filesystem::exists(options.target.string() + ".partial"));
    std::filesystem::remove_all(options.target);
  }
  EXPECT_EQ(kills, 50);
  EXPECT_GT(resumed_kills, 5);
  EXPECT_EQ(snapshot(space / "in"), source);
}

INSTANTIATE_TEST_SUITE_P(Plain, KillAtFiftyMoments, ::testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Force, KillAtFiftyMoments, ::testing::Values(true));

// Calibration goes on at the layer where it was, from the activations that it saved, and its statistics are
// those of an undisturbed run too.
TEST(KillWhileCalibrating, TheSameCommandEndsInTheSameBytes) {
  const Workspace space;
  ModelConfig config = small_config();
  config.layers = 3;
  config.hidden = 136;
  make_model(space / "in", config);
  std::string text;
  for (int i = 0; i < 300; ++i) text += "Line " + std::to_string(i * 37 % 101) + " of the text.\n";
  write_file(space / "text", text);
  ConvertOptions options = options_for(space / "in", space / "whole");
  options.method = PruneMethod::kSparseGpt;
  options.layout = PackedLayout::kSplit;
  options.calibration = {(space / "text").string(), 6, 40, 3};
  options.statistics = space / "statistics";
  options.commit_bytes = 20'000;
  std::int64_t calls = 0;
  ASSERT_FALSE(convert_in_child(options, 0, &calls));
  ASSERT_GT(calls, 60);
  const auto want = snapshot(options.target);
  const auto want_statistics = snapshot(options.statistics);
  EXPECT_EQ(want.size(), snapshot(space / "in").size() + 1);  // the report; no activations are left

  Random random(17);
  int kills = 0;
  for (int trial = 0; trial < 25; ++trial) {
    options.target = space / ("out" + std::to_string(trial));
    options.statistics = space / ("statistics" + std::to_string(trial));
    if (convert_in_child(options, 1 + random.below(calls))) ++kills;
    if (!complete(options.target) && trial % 2 == 1 && convert_in_child(options, 1 + random.below(calls / 2)))
      ++kills;
    expect_no_half_model(options.target);
    if (!complete(options.target)) {
      ASSERT_FALSE(convert_in_child(options, 0));
    }
    EXPECT_TRUE(snapshot(options.target) == want) << "trial " << trial;
    EXPECT_TRUE(snapshot(options.statistics) == want_statistics) << "trial " << trial;
    std::filesystem::remove_all(options.target);
    std::filesystem::remove_all(options.statistics);
  }
  EXPECT_GT(kills, 20);
}

// The same without looking where: a signal from outside after a random time.
TEST(KillFromOutside, TheSameCommandEndsInTheSameBytes) {
  const Workspace space;
  file_ops() = FileOps::system();
  ModelConfig config = small_config();
  config.layers = 6;
  config.hidden = 320;
  config.heads = 40;
  config.intermediate = 640;
  make_model(space / "in", config);
  ConvertOptions options = options_for(space / "in", space / "whole");
  options.commit_bytes = 100'000;
  const double start = now_seconds();
  ASSERT_FALSE(convert_in_child(options, 0));
  const double whole = now_seconds() - start;
  const auto want = snapshot(space / "whole");
  Random random(9);
  for (int trial = 0; trial < 10; ++trial) {
    options.target = space / ("out" + std::to_string(trial));
    const pid_t child = ::fork();
    if (child == 0) {
      set_thread_count(1);
      try {
        convert_model(options);
      } catch (const std::exception&) {
        ::_exit(3);
      }
      ::_exit(0);
    }
    ::usleep(static_cast<useconds_t>(1e6 * whole * static_cast<double>(random.uniform())));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    if (!complete(options.target)) {
      ASSERT_FALSE(convert_in_child(options, 0));
    }
    EXPECT_TRUE(snapshot(options.target) == want);
  }
}

}  // namespace
}  // namespace slidesparse
