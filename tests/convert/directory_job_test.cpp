#include "convert/directory_job.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>

#include "convert/random_model.h"
#include "core/random.h"
#include "slidesparse/core/error.h"
#include "support.h"

namespace slidesparse {
namespace {

using namespace testing_support;
using ::testing::HasSubstr;

// Each test replaces some of the calls; the workspace restores them.
class FaultInjection : public ::testing::Test {
 protected:
  void SetUp() override { make_model(space_ / "in"); }

  ConvertOptions options() {
    ConvertOptions options = options_for(space_ / "in", space_ / "out");
    options.commit_bytes = 4096;
    return options;
  }

  const Workspace space_;
};

TEST_F(FaultInjection, ShortAndInterruptedWritesAreContinued) {
  convert_model(options_for(space_ / "in", space_ / "whole"));
  std::atomic<std::uint64_t> calls{0};
  const FileOps system = fast_ops();
  file_ops().pwrite = [&](int fd, const void* data, std::size_t bytes, std::int64_t offset) -> std::int64_t {
    const std::uint64_t bits = random_bits(3, calls++);
    if (bits % 5 == 0) {
      errno = EINTR;
      return -1;
    }
    return system.pwrite(fd, data, 1 + bits % bytes, offset);
  };
  convert_model(options());
  EXPECT_TRUE(snapshot(space_ / "out") == snapshot(space_ / "whole"));
}

// Every error at every kind of call: one line, nothing at the target, the source untouched, and the next run
// ends right.
TEST_F(FaultInjection, ErrorsLeaveNothingBehindAndTheNextRunEndsRight) {
  convert_model(options_for(space_ / "in", space_ / "whole"));
  const auto want = snapshot(space_ / "whole");
  const auto source = snapshot(space_ / "in");
  for (const int error : {ENOSPC, EIO}) {
    for (int kind = 0; kind < 4; ++kind) {
      for (const int when : {1, 2, 7, 20}) {
        SCOPED_TRACE(testing::Message() << strerror(error) << ", kind " << kind << ", call " << when);
        const FileOps system = fast_ops();
        std::atomic<int> calls{0};
        const auto fails = [&] {
          errno = error;
          return ++calls == when;
        };
        FileOps& ops = file_ops();
        if (kind == 0) {
          ops.pwrite = [&](int fd, const void* data, std::size_t bytes, std::int64_t offset) {
            return fails() ? -1 : system.pwrite(fd, data, bytes, offset);
          };
        } else if (kind == 1) {
          ops.truncate = [&](int fd, std::int64_t size) { return fails() ? -1 : system.truncate(fd, size); };
        } else if (kind == 2) {
          ops.sync = [&](int) { return fails() ? -1 : 0; };
        } else {
          ops.rename = [&](const char* from, const char* to) {
            return fails() ? -1 : system.rename(from, to);
          };
        }
        const std::string message = error_of([&] { convert_model(options()); });
        const bool reached = calls >= when;
        file_ops() = system;
        if (reached) {
          EXPECT_THAT(message, HasSubstr(strerror(error)));
          EXPECT_EQ(message.find('\n'), std::string::npos);
          if (!std::filesystem::exists(space_ / "out" / "slidesparse.journal")) {
            EXPECT_FALSE(std::filesystem::exists(space_ / "out"));
          }
          convert_model(options());
        }
        EXPECT_TRUE(snapshot(space_ / "out") == want);
        EXPECT_EQ(snapshot(space_ / "in"), source);
        std::filesystem::remove_all(space_ / "out");
      }
    }
  }
}

TEST_F(FaultInjection, ResumedWorkIsCountedAndEqual) {
  convert_model(options_for(space_ / "in", space_ / "whole"));
  const FileOps system = fast_ops();
  std::atomic<int> calls{0};
  file_ops().pwrite = [&](int fd, const void* data, std::size_t bytes, std::int64_t offset) -> std::int64_t {
    if (++calls > 60) {
      errno = EIO;
      return -1;
    }
    return system.pwrite(fd, data, bytes, offset);
  };
  EXPECT_NE(error_of([&] { convert_model(options()); }), "");
  file_ops() = system;
  const ConvertReport report = convert_model(options());
  EXPECT_GT(report.resumed_items, 0);
  EXPECT_EQ(report.layers.size(), 14u);
  EXPECT_TRUE(snapshot(space_ / "out") == snapshot(space_ / "whole"));
}

TEST_F(FaultInjection, LeftoversOfAnotherJobAreRefusedUnlessForced) {
  file_ops().rename = [](const char*, const char*) {
    errno = EIO;
    return -1;
  };
  EXPECT_NE(error_of([&] { convert_model(options()); }), "");
  file_ops() = fast_ops();
  ConvertOptions other = options();
  other.pattern = Pattern::parse("2:4");
  const std::string message = error_of([&] { convert_model(other); });
  EXPECT_THAT(message, HasSubstr("6:8"));
  EXPECT_THAT(message, HasSubstr("2:4"));
  EXPECT_THAT(message, HasSubstr("--force"));
  other.force = true;
  convert_model(other);
  EXPECT_TRUE(std::filesystem::exists(space_ / "out" / "config.json"));
}

TEST_F(FaultInjection, AStrangersDirectoryIsNotTouched) {
  std::filesystem::create_directory(space_ / "out.partial");
  write_file(space_ / "out.partial" / "thesis.txt", "years of work");
  EXPECT_THAT(error_of([&] { convert_model(options()); }), HasSubstr("out.partial: is in the way"));
  EXPECT_EQ(read_file(space_ / "out.partial" / "thesis.txt"), "years of work");
}

}  // namespace
}  // namespace slidesparse
