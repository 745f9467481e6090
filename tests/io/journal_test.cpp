#include "io/journal.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "io/file_writer.h"
#include "test_files.h"

namespace slidesparse::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Optional;

constexpr const char* kIdentity = R"({"source": {"a.safetensors": "00ff"}, "pattern": "6:8"})";

class JournalTest : public ::testing::Test {
 protected:
  void TearDown() override { file_ops() = FileOps::system(); }
  // Identity and three items.
  void fill() const {
    Journal journal(path_, kIdentity);
    journal.record("a", R"({"bytes": 1})");
    journal.record("b\n\"", "text that is no JSON: \\ \n");
    journal.record("c", "");
  }

  TempDir dir_;
  std::filesystem::path path_ = dir_ / kJournalName;
};

TEST_F(JournalTest, RemembersItems) {
  fill();
  const Journal journal(path_, kIdentity);
  EXPECT_EQ(journal.size(), 3u);
  EXPECT_THAT(journal.find("a"), Optional(std::string(R"({"bytes": 1})")));
  EXPECT_THAT(journal.find("b\n\""), Optional(std::string("text that is no JSON: \\ \n")));
  EXPECT_THAT(journal.find("c"), Optional(std::string()));
  EXPECT_EQ(journal.find("d"), std::nullopt);
}

TEST_F(JournalTest, KeyOrderOfTheIdentityDoesNotMatter) {
  fill();
  const Journal journal(path_, R"({"pattern":"6:8","source":{"a.safetensors":"00ff"}})");
  EXPECT_EQ(journal.size(), 3u);
}

TEST_F(JournalTest, AnotherJobIsRefusedWithTheDifference) {
  fill();
  const auto open = [&](const char* identity) { return error_of([&] { Journal journal(path_, identity); }); };
  EXPECT_THAT(open(R"({"source": {"a.safetensors": "00ff"}, "pattern": "2:4"})"),
              HasSubstr("/pattern is \"6:8\" there and \"2:4\" here"));
  EXPECT_THAT(open(R"({"source": {"a.safetensors": "11"}, "pattern": "6:8"})"),
              HasSubstr("/source/a.safetensors is \"00ff\" there and \"11\" here"));
  EXPECT_THAT(open(R"({"source": {"a.safetensors": "00ff"}, "pattern": "6:8", "x": 1})"),
              HasSubstr("/x is missing there and 1 here"));
  EXPECT_EQ(Journal(path_, kIdentity).size(), 3u);
}

TEST_F(JournalTest, TornLastLineIsDroppedAtEveryByte) {
  fill();
  const std::string whole = read_text(path_);
  std::vector<std::size_t> ends;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    if (whole[i] == '\n') ends.push_back(i + 1);
  }
  ASSERT_EQ(ends.size(), 4u);
  for (std::size_t length = 0; length <= whole.size(); ++length) {
    write_text(path_, whole.substr(0, length));
    const auto complete = static_cast<std::size_t>(
        std::count_if(ends.begin(), ends.end(), [&](std::size_t end) { return end <= length; }));
    {
      Journal journal(path_, kIdentity);
      ASSERT_EQ(journal.size(), complete == 0 ? 0 : complete - 1) << length;
      journal.record("new", "1");
    }
    ASSERT_EQ(Journal(path_, kIdentity).size(), complete == 0 ? 1 : complete) << length;
  }
}

TEST_F(JournalTest, DamageNeverPassesAsAnItem) {
  fill();
  const std::string whole = read_text(path_);
  const std::size_t first = whole.find('\n') + 1;
  for (std::size_t i = first; i < whole.size(); ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 4);
    write_text(path_, damaged);
    const Journal journal(path_, kIdentity);
    ASSERT_LT(journal.size(), 3u) << i;
    const auto payload = journal.find("a");
    ASSERT_EQ(payload.value_or(R"({"bytes": 1})"), R"({"bytes": 1})") << i;
  }
  for (std::size_t i = 0; i + 1 < first; ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 4);
    write_text(path_, damaged);
    ASSERT_THAT(error_of([&] { Journal journal(path_, kIdentity); }), HasSubstr("first line is damaged"))
        << i;
  }
}

TEST_F(JournalTest, OneWriterAtATime) {
  const Journal journal(path_, kIdentity);
  EXPECT_THAT(error_of([&] { Journal other(path_, kIdentity); }), HasSubstr("another process is writing"));
}

TEST_F(JournalTest, FailedRecordIsNotRemembered) {
  {
    Journal journal(path_, kIdentity);
    journal.record("a", "1");
    file_ops().pwrite = [](int fd, const void* data, std::size_t size, std::int64_t offset) -> std::int64_t {
      if (size < 20) {
        errno = ENOSPC;
        return -1;
      }
      return ::pwrite(fd, data, size - 19, offset);
    };
    EXPECT_THAT(error_of([&] { journal.record("b", std::string(300, 'x')); }), HasSubstr("No space left"));
    EXPECT_EQ(journal.find("b"), std::nullopt);
    file_ops() = FileOps::system();
    journal.record("c", "3");  // over the torn part, which was longer
  }
  const Journal journal(path_, kIdentity);
  EXPECT_EQ(journal.size(), 2u);
  EXPECT_THAT(journal.find("c"), Optional(std::string("3")));
}

TEST_F(JournalTest, SyncFailureIsAnError) {
  Journal journal(path_, kIdentity);
  file_ops().sync = [](int) {
    errno = EIO;
    return -1;
  };
  EXPECT_THAT(error_of([&] { journal.record("a", "1"); }), HasSubstr("sync failed: Input/output error"));
  EXPECT_EQ(journal.find("a"), std::nullopt);
}

}  // namespace
}  // namespace slidesparse::testing
