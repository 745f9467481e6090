#include "cli/pattern_option.h"

#include <charconv>
#include <string_view>

#include "cli/dtype_names.h"
#include "core/fail.h"
#include "core/text.h"

namespace slidesparse {
namespace {

// "6:8" or "6:8/split".
void parse_pattern_and_layout(const std::string& text, Pattern& pattern, PackedLayout& layout) {
  const std::size_t slash = text.find('/');
  pattern = parse_pattern_option(text.substr(0, slash));
  if (slash != std::string::npos) layout = parse_layout_option(text.substr(slash + 1));
}

}  // namespace

PackedLayout parse_layout_option(const std::string& text) {
  for (const PackedLayout layout : {PackedLayout::kSlide, PackedLayout::kSplit}) {
    if (packed_layout_name(layout) == text) return layout;
  }
  fail(ErrorKind::kUsage, "layout \"{}\": there are slide and split", printable(text));
}

std::optional<bool> parse_rounding_option(const std::string& text) {
  if (text.empty()) return std::nullopt;
  if (text != "gptq" && text != "nearest")
    fail(ErrorKind::kUsage, "--rounding \"{}\": there are nearest and gptq", printable(text));
  return text == "gptq";
}

bool parse_target_speed(const std::string& text, ConvertOptions& options) {
  constexpr std::string_view kWord = "speed=";
  if (!text.starts_with(kWord)) return false;
  const std::string number = text.substr(kWord.size(), text.find('/') - kWord.size());
  double speed = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), speed);
  if (error != std::errc() || end != number.data() + number.size()) {
    fail(ErrorKind::kUsage, "\"{}\": a number is needed, as in speed=1.135/split", printable(text));
  }
  options.target_speed = speed;
  if (const std::size_t slash = text.find('/'); slash != std::string::npos)
    options.layout = parse_layout_option(text.substr(slash + 1));
  return true;
}

void parse_patterns(const std::vector<std::string>& texts, ConvertOptions& options) {
  bool found = false;
  for (const std::string& text : texts) {
    if (text.find('=') != std::string::npos) continue;
    if (found) {
      fail(ErrorKind::kUsage, "--pattern: {} is a second default; exceptions look like '*.down_proj=8:10'",
           printable(text));
    }
    parse_pattern_and_layout(text, options.pattern, options.layout);
    found = true;
  }
  if (!found)
    fail(ErrorKind::kUsage, "--pattern: the default is missing; give one as in '6:8,*.down_proj=8:10'");
  for (const std::string& text : texts) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos) continue;
    PatternRule rule{text.substr(0, equals), Pattern(), options.layout};
    parse_pattern_and_layout(text.substr(equals + 1), rule.pattern, rule.layout);
    options.rules.push_back(std::move(rule));
  }
}

}  // namespace slidesparse
