#include "io/file_writer.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "test_files.h"

namespace slidesparse::testing {
namespace {

using ::testing::HasSubstr;

// Faults are injected into file_ops(); the system's operations come back afterwards.
class FileWriter : public ::testing::Test {
 protected:
  void TearDown() override { file_ops() = FileOps::system(); }
  static std::span<const std::byte> bytes(std::string_view text) {
    return std::as_bytes(std::span(text.data(), text.size()));
  }

  TempDir dir_;
};

TEST_F(FileWriter, WritesAtOffsets) {
  {
    OutputFile file(dir_ / "a", 10);
    file.write_at(5, bytes("56789"));
    file.write_at(0, bytes("01234"));
    file.sync();
  }
  EXPECT_EQ(read_text(dir_ / "a"), "0123456789");
}

TEST_F(FileWriter, ReopeningKeepsContentAndSetsTheSize) {
  write_text(dir_ / "a", "0123456789abc");
  { OutputFile file(dir_ / "a", 10); }
  EXPECT_EQ(read_text(dir_ / "a"), "0123456789");
  { OutputFile file(dir_ / "a", 12); }
  EXPECT_EQ(read_text(dir_ / "a"), std::string("0123456789\0\0", 12));
}

TEST_F(FileWriter, SizeIsReservedOnOpening) {
  const OutputFile file(dir_ / "a", 1 << 20);
  struct stat status {};
  ASSERT_EQ(::stat((dir_ / "a").c_str(), &status), 0);
  EXPECT_EQ(status.st_size, 1 << 20);
}

TEST_F(FileWriter, ShortWritesAndSignalsAreContinued) {
  int calls = 0;
  file_ops().pwrite = [&](int fd, const void* data, std::size_t size, std::int64_t offset) -> std::int64_t {
    ++calls;
    if (calls % 3 == 0) {
      errno = EINTR;
      return -1;
    }
    return ::pwrite(fd, data, std::min<std::size_t>(size, 3), offset);
  };
  OutputFile file(dir_ / "a", 20);
  file.write_at(0, bytes("0123456789abcdefghij"));
  EXPECT_EQ(read_text(dir_ / "a"), "0123456789abcdefghij");
  EXPECT_GE(calls, 7);
}

TEST_F(FileWriter, FullDiskSaysHowMuchIsFree) {
  file_ops().pwrite = [](int, const void*, std::size_t, std::int64_t) -> std::int64_t {
    errno = ENOSPC;
    return -1;
  };
  OutputFile file(dir_ / "a", 20);
  const auto write = [&] { file.write_at(0, bytes("0123456789")); };
  EXPECT_THAT(error_of(write), HasSubstr("write of 10 bytes failed: No space left on device ("));
  EXPECT_THAT(error_of(write), HasSubstr(" free there; make room and run again)"));
  EXPECT_EQ(kind_of(write), ErrorKind::kIo);
}

TEST_F(FileWriter, FullDiskShowsWhenTheSpaceIsReserved) {
  file_ops().truncate = [](int, std::int64_t) {
    errno = ENOSPC;
    return -1;
  };
  EXPECT_THAT(error_of([&] { OutputFile file(dir_ / "a", 1 << 30); }),
              HasSubstr("reserving of 1073741824 bytes failed: No space"));
}

TEST_F(FileWriter, ZeroProgressIsNotForever) {
  file_ops().pwrite = [](int, const void*, std::size_t, std::int64_t) -> std::int64_t { return 0; };
  OutputFile file(dir_ / "a", 20);
  EXPECT_THAT(error_of([&] { file.write_at(0, bytes("0123456789")); }), HasSubstr("No space left"));
}

TEST_F(FileWriter, InputOutputErrors) {
  OutputFile file(dir_ / "a", 20);
  file_ops().sync = [](int) {
    errno = EIO;
    return -1;
  };
  EXPECT_THAT(error_of([&] { file.sync(); }), HasSubstr("a: sync failed: Input/output error"));
  file_ops().open = [](const char*, int, int) {
    errno = EROFS;
    return -1;
  };
  EXPECT_THAT(error_of([&] { OutputFile other(dir_ / "b", 1); }),
              HasSubstr("b: cannot open for writing: Read-only file system"));
}

TEST_F(FileWriter, LinksAreNotWrittenThrough) {
  write_text(dir_ / "precious", "keep");
  std::filesystem::create_symlink(dir_ / "precious", dir_ / "a");
  EXPECT_THAT(error_of([&] { OutputFile file(dir_ / "a", 2); }), HasSubstr("cannot open for writing"));
  EXPECT_EQ(read_text(dir_ / "precious"), "keep");
  write_file_atomically(dir_ / "a", "new");
  EXPECT_EQ(read_text(dir_ / "precious"), "keep");
  EXPECT_EQ(read_text(dir_ / "a"), "new");
}

// Whatever fails, the file has its old or its new content, and no temporary file stays.
TEST_F(FileWriter, AtomicWriteKeepsTheOldContentWhenAnythingFails) {
  const auto content_after = [&](const char* expected_error) {
    write_text(dir_ / "c.json", "old");
    EXPECT_THAT(error_of([&] { write_file_atomically(dir_ / "c.json", "new content"); }),
                HasSubstr(expected_error));
    EXPECT_FALSE(std::filesystem::exists(dir_ / "c.json.tmp"));
    file_ops() = FileOps::system();
    return read_text(dir_ / "c.json");
  };
  file_ops().pwrite = [](int fd, const void* data, std::size_t, std::int64_t offset) -> std::int64_t {
    if (offset == 0) return ::pwrite(fd, data, 4, 0);
    errno = ENOSPC;
    return -1;
  };
  EXPECT_EQ(content_after("No space left"), "old");
  file_ops().sync = [](int) {
    errno = EIO;
    return -1;
  };
  EXPECT_EQ(content_after("Input/output error"), "old");
  file_ops().rename = [](const char*, const char*) {
    errno = EACCES;
    return -1;
  };
  EXPECT_EQ(content_after("cannot rename"), "old");
  file_ops().open = [](const char*, int, int) {
    errno = EMFILE;
    return -1;
  };
  EXPECT_EQ(content_after("cannot create: Too many open files"), "old");
}

TEST_F(FileWriter, AtomicWriteOrdersSyncBeforeRename) {
  std::string order;
  const FileOps system = FileOps::system();
  file_ops().sync = [&](int fd) {
    order += 's';
    return system.sync(fd);
  };
  file_ops().rename = [&](const char* from, const char* to) {
    order += 'r';
    return system.rename(from, to);
  };
  write_text(dir_ / "c.json.tmp", "left by a run that was killed, and longer than the new content");
  write_file_atomically(dir_ / "c.json", "new");
  EXPECT_EQ(order, "srs");
  EXPECT_EQ(read_text(dir_ / "c.json"), "new");
}

}  // namespace
}  // namespace slidesparse::testing
