#include "io/text_file.h"

#include "test_files.h"

namespace slidesparse {
namespace {

TEST(TextFile, LinesEndAsTheyAreOrInLineFeeds) {
  const testing::TempDir directory;
  const std::string path = directory / "text.txt";
  const std::string bytes = "one\r\ntwo\rthree\n\r\n\r";
  std::ofstream(path, std::ios::binary) << bytes;
  EXPECT_EQ(read_text_input(path), bytes);
  EXPECT_EQ(read_text_lines(path), "one\ntwo\rthree\n\n\r");
  EXPECT_THROW(read_text_lines(directory / "none.txt"), Error);
}

}  // namespace
}  // namespace slidesparse
