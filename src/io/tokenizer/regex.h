#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "io/tokenizer/json_node.h"

namespace slidesparse::tok {

// A regular expression with the meaning that Oniguruma (the engine of `tokenizers`) gives it, run by PCRE2.
// What the two read differently is translated (\s, \w, ^, $, \h...); what cannot be is refused.
class Regex {
 public:
  // Refuses, at `place`, a pattern that does not compile.
  Regex(std::string_view pattern, const JsonNode& place);
  // A pattern that matches exactly `text`.
  static Regex literal(std::string_view text, const JsonNode& place);

  // Calls found(start, end) for each match in `text` (valid UTF-8), left to right and not overlapping. Empty
  // matches count, except one right behind the last match. Throws Error(kInput) when the pattern exceeds its
  // limits.
  void for_each_match(std::string_view text,
                      const std::function<void(std::size_t, std::size_t)>& found) const;
  // `text` with every match replaced by `with`, taken literally.
  std::string replace_all(const std::string& text, const std::string& with) const;

 private:
  struct Compiled;
  Regex(std::string_view shown, const std::string& translated, const JsonNode& place);
  std::shared_ptr<const Compiled> compiled_;
};

// `pattern` in PCRE2's syntax; refuses constructs that cannot be said there. Exposed for its test.
std::string translate_pattern(std::string_view pattern, const JsonNode& place);

}  // namespace slidesparse::tok
