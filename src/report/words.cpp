#include "report/words.h"

#include <algorithm>

#include "core/fail.h"
#include "core/text.h"

namespace slidesparse {

Words Words::of_language(const std::string& language) {
  if (language == "en") return {language, english_words()};
  if (language == "zh") return {language, chinese_words()};
  fail(ErrorKind::kUsage, "--language {}: possible are en, zh", printable(language, 40));
}

const WordEntry* Words::find(std::string_view key) const {
  const auto entry = std::ranges::lower_bound(table_, key, {}, &WordEntry::key);
  return entry != table_.end() && entry->key == key ? &*entry : nullptr;
}

std::string Words::operator()(std::string_view key) const {
  const WordEntry* entry = find(key);
  require(entry != nullptr, "report: no word '{}' in language {}", key, language_);
  return std::string(entry->text);
}

}  // namespace slidesparse
