#pragma once

#include <fmt/format.h>

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace slidesparse {

struct WordEntry {
  std::string_view key, text;
};
// One table per language, sorted by key. Texts may have places {0}, {1} ... for figures and names.
std::span<const WordEntry> english_words();
std::span<const WordEntry> chinese_words();

// The words of a report in one language.
class Words {
 public:
  // "en" or "zh"; throws kUsage with the list.
  static Words of_language(const std::string& language);
  Words(std::string language, std::span<const WordEntry> table)
      : language_(std::move(language)), table_(table) {}

  const std::string& language() const { return language_; }
  bool has(std::string_view key) const { return find(key) != nullptr; }
  // Throws kInternal for a key that the table lacks.
  std::string operator()(std::string_view key) const;
  template <typename... Args>
  std::string operator()(std::string_view key, const Args&... args) const {
    return fmt::vformat((*this)(key), fmt::make_format_args(args...));
  }

 private:
  const WordEntry* find(std::string_view key) const;
  std::string language_;
  std::span<const WordEntry> table_;
};

}  // namespace slidesparse
