#include "slidesparse/format/pattern.h"

#include "core/fail.h"
#include "core/text.h"

namespace slidesparse {
namespace {

constexpr int kSmallestHalfGroup = 2;
constexpr int kLargestHalfGroup = 8;

}  // namespace

Pattern Pattern::parse(std::string_view text) {
  if (text == "dense") return Pattern();
  for (int n = kSmallestHalfGroup; n <= kLargestHalfGroup; ++n) {
    if (const Pattern pattern = of_half_group(n); text == pattern.to_string()) return pattern;
  }
  for (int n = kSmallestHalfGroup + 1; n <= kLargestHalfGroup; ++n) {
    const Pattern meant = of_half_group(n);
    if (text == fmt::format("{}:{}", meant.zeroed(), meant.group())) {
      fail_input("pattern \"{}\": zeros:length {} means kept {}: patterns are written kept:group, one of {}",
                 text, text, meant.to_string(), pattern_list());
    }
  }
  fail_input("pattern \"{}\" is not possible: kept:group is one of {}", printable(text, 40), pattern_list());
}

std::string Pattern::to_string() const {
  return is_dense() ? "dense" : fmt::format("{}:{}", kept_, group_);
}

std::string pattern_list() {
  std::string list = "dense";
  for (int n = kSmallestHalfGroup; n <= kLargestHalfGroup; ++n) {
    list += ", " + Pattern::of_half_group(n).to_string();
  }
  return list;
}

}  // namespace slidesparse
