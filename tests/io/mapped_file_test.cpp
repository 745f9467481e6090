#include "io/mapped_file.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <vector>

#include "io/digest.h"
#include "test_files.h"

namespace slidesparse::testing {
namespace {

using ::testing::HasSubstr;

TEST(MappedFile, ShowsTheBytes) {
  const TempDir dir;
  write_text(dir / "a", "hello");
  MappedFile file(dir / "a");
  ASSERT_EQ(file.size(), 5);
  EXPECT_EQ(std::memcmp(file.bytes().data(), "hello", 5), 0);
  EXPECT_EQ(file.path(), dir / "a");
  MappedFile moved = std::move(file);
  EXPECT_EQ(moved.size(), 5);
}

TEST(MappedFile, EmptyFileIsAnEmptySpan) {
  const TempDir dir;
  write_text(dir / "empty", "");
  const MappedFile file(dir / "empty");
  EXPECT_EQ(file.size(), 0);
  file.release(0, 10);
}

TEST(MappedFile, HintsKeepTheContent) {
  const TempDir dir;
  std::string text(1 << 20, '\0');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 31 >> 3);
  write_text(dir / "a", text);
  const MappedFile file(dir / "a");
  file.prefetch(100, 1 << 19);
  ASSERT_EQ(std::memcmp(file.bytes().data(), text.data(), text.size()), 0);
  file.release(4097, 1 << 19);
  file.release(-5, 1 << 30);
  file.prefetch(1 << 20, 1);
  EXPECT_EQ(std::memcmp(file.bytes().data(), text.data(), text.size()), 0);
}

TEST(MappedFile, RefusesWhatIsNoRegularFile) {
  const TempDir dir;
  EXPECT_THAT(error_of([&] { MappedFile file(dir / "missing"); }),
              HasSubstr("missing: cannot open: No such file"));
  EXPECT_THAT(error_of([&] { MappedFile file(dir.path()); }), HasSubstr("not a regular file (a directory)"));
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { MappedFile file(dir / "fifo"); }), HasSubstr("not a regular file"));
  EXPECT_EQ(kind_of([&] { MappedFile file(dir / "missing"); }), ErrorKind::kIo);
}

// Reads a byte at the end of a file that lost it.
void read_lost_part(const std::filesystem::path& path) {
  const MappedFile file(path);
  if (::truncate(path.c_str(), 4096) != 0) ::_exit(99);
  volatile std::byte value = file.bytes()[300'000];
  (void)value;
  ::_exit(98);
}

TEST(MappedFileDeathTest, ShrinkingFileEndsWithAMessage) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const TempDir dir;
  write_text(dir / "model.safetensors", std::string(400'000, 'x'));
  EXPECT_EXIT(
      read_lost_part(dir / "model.safetensors"), ::testing::ExitedWithCode(1),
      "error: .*model.safetensors: the file was 400000 bytes long when it was opened and lost a part");
}

TEST(MappedFileDeathTest, ManyMappingsAreKnown) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const TempDir dir;
  write_text(dir / "other", "x");
  write_text(dir / "last", std::string(400'000, 'x'));
  EXPECT_EXIT(
      {
        std::vector<MappedFile> files;
        files.reserve(600);
        for (int i = 0; i < 600; ++i) files.emplace_back(dir / "other");
        read_lost_part(dir / "last");
      },
      ::testing::ExitedWithCode(1), "last: the file was 400000 bytes long");
}

#if !defined(__SANITIZE_ADDRESS__)  // its own handler would answer
TEST(MappedFileDeathTest, OtherBusErrorsStaySignals) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const TempDir dir;
  write_text(dir / "a", "hello");
  EXPECT_EXIT(
      {
        const MappedFile file(dir / "a");
        ::raise(SIGBUS);
        ::raise(SIGBUS);
      },
      ::testing::KilledBySignal(SIGBUS), "");
}
#endif

TEST(Sha256, KnownAnswers) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 digest;
  const std::string part(1000, 'a');
  for (int i = 0; i < 1000; ++i) digest.update(std::as_bytes(std::span(part.data(), part.size())));
  EXPECT_EQ(digest.finish(), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

}  // namespace
}  // namespace slidesparse::testing
