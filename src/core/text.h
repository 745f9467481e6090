#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace slidesparse {

// "1.50 GB" (decimal units), "812 B".
std::string format_bytes(double bytes);

// "22.4GiB", "500 MB", "4096" (bytes): decimal and binary units, a fraction allowed. Nothing for other text,
// negative sizes and sizes beyond 2^62.
std::optional<std::int64_t> parse_bytes(std::string_view text);

// Text from outside made safe for one line of a terminal: control characters and invalid UTF-8 become \xNN,
// and what exceeds `limit` bytes is cut with "...".
std::string printable(std::string_view text, std::size_t limit = 200);

// fnmatch-style: '*' any run, '?' any character, [a-z] sets; '*' matches '.' and '/' too.
bool glob_match(std::string_view pattern, std::string_view text);

// A Markdown table whose columns are padded to equal width: reads well in a terminal and pastes well.
class TextTable {
 public:
  enum class Align { kLeft, kRight };
  explicit TextTable(std::vector<std::string> header, std::vector<Align> align = {});
  void add_row(std::vector<std::string> cells);
  std::string to_string() const;

 private:
  std::vector<std::string> header_;
  std::vector<Align> align_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace slidesparse
