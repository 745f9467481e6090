#include <algorithm>

#include "core/text.h"
#include "io/tokenizer/regex.h"
#include "io/tokenizer/unicode_recent.h"

// Oniguruma's default (Ruby) syntax against PCRE2 with UTF and UCP. Different, and translated here:
//   \s \S   Unicode's White_Space there, without U+0085 and with U+180E here
//   \w \W   Alphabetic, M, Nd, Pc there, L, N and underscore here
//   \h \H   a hexadecimal digit there, horizontal space here
//   \v      the vertical tab there, vertical space here
//   \uHHHH  not known here
//   \p{Han} the script there, the script and its extensions here
//   ^ $     the ends of every line there (compile option here)
// \p{L}, \p{M}, \p{N}, \p{Nd}, \d and their negations gain the characters of unicode_recent.h.
// Different and refused: nested sets and && in sets, (?m) = "dot matches newline", \b \B \G \K \R \X \y and
// others.
namespace slidesparse::tok {
namespace {

template <typename Ranges>
std::string items(const Ranges& ranges) {
  std::string out;
  for (const CodeRange& range : ranges) {
    out += fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", static_cast<std::uint32_t>(range.first),
                       static_cast<std::uint32_t>(range.last));
  }
  return out;
}

// What a set holds for a general category, or nothing for categories and properties that PCRE2 is trusted
// with.
std::string category_items(std::string_view name) {
  if (name == "L") return "\\p{L}" + items(kRecentLetters);
  if (name == "M") return "\\p{M}" + items(kRecentMarks);
  if (name == "Nd") return "\\p{Nd}" + items(kRecentDigits);
  if (name == "N") return "\\p{N}" + items(kRecentDigits) + items(kRecentOtherNumbers);
  return {};
}

// Oniguruma counts the Latin-1 superscripts and fractions as word characters, other numbers without digits
// not.
std::string word_items() {
  return "\\p{Alphabetic}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}" + category_items("L") +
         category_items("M") + category_items("Nd");
}

bool is_category(std::string_view name) {
  constexpr std::string_view kKnown =
      " C Cc Cf Cn Co Cs L L& Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi Po Ps S Sc Sk Sm So Z Zl "
      "Zp Zs ";
  return kKnown.find(" " + std::string(name) + " ") != std::string_view::npos;
}

class Translator {
 public:
  Translator(std::string_view pattern, const JsonNode& place) : in_(pattern), place_(place) {}

  std::string run() {
    while (i_ < in_.size()) {
      const char c = in_[i_];
      if (c == '\\') {
        escape();
      } else if (in_set_) {
        set_character(c);
      } else if (c == '[') {
        open_set();
      } else if (c == '(' && in_.substr(i_, 2) == "(?") {
        group();
      } else {
        out_ += c;
        ++i_;
      }
    }
    return out_;
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    place_.refuse("pattern \"{}\": \"{}\" at byte {} is not supported", printable(in_), printable(what), i_);
  }

  void open_set() {
    in_set_ = true;
    out_ += in_[i_++];
    if (i_ < in_.size() && in_[i_] == '^') out_ += in_[i_++];
    if (i_ < in_.size() && in_[i_] == ']') refuse("[]");
  }

  void set_character(char c) {
    if (c == '[') {
      const bool posix = in_.substr(i_, 2) == "[:";
      const std::size_t end = posix ? in_.find(":]", i_) : std::string_view::npos;
      if (end == std::string_view::npos) refuse("a set inside a set");
      out_ += in_.substr(i_, end + 2 - i_);
      i_ = end + 2;
      return;
    }
    if (c == '&' && in_.substr(i_, 2) == "&&") refuse("&&");
    if (c == ']') in_set_ = false;
    out_ += c;
    ++i_;
  }

  // "(?...": look-around, groups without number, atomic groups, the flags i and x.
  void group() {
    const std::string_view rest = in_.substr(i_ + 2);
    for (const std::string_view known : {":", "=", "!", ">", "<=", "<!"}) {
      if (rest.substr(0, known.size()) == known) {
        out_ += in_.substr(i_, 2 + known.size());
        i_ += 2 + known.size();
        return;
      }
    }
    const std::size_t end = rest.find_first_not_of("ix-");
    if (end == 0 || end == std::string_view::npos || (rest[end] != ':' && rest[end] != ')')) {
      refuse(in_.substr(i_, std::min<std::size_t>(in_.size() - i_, 4)));
    }
    out_ += in_.substr(i_, 2 + end + 1);
    i_ += 2 + end + 1;
  }

  void escape() {
    if (i_ + 1 >= in_.size()) refuse("\\");
    const char c = in_[i_ + 1];
    const auto replace = [&](std::string_view text) {
      out_ += text;
      i_ += 2;
    };
    switch (c) {
      case 's':
        return replace("\\p{White_Space}");
      case 'S':
        return replace("\\P{White_Space}");
      case 'w':
      case 'W':
        return set_items(word_items(), c == 'W', 2);
      case 'h':
      case 'H':
        return set_items("0-9A-Fa-f", c == 'H', 2);
      case 'd':
      case 'D':
        return set_items(category_items("Nd"), c == 'D', 2);
      case 'v':
        return replace("\\x{0b}");
      case 'u':
        return code_unit();
      case 'p':
      case 'P':
        return property(c == 'P');
      default:
        break;
    }
    // The same in both: digits, control characters, \x, back-references, anchors, punctuation.
    const bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const std::string_view same = in_set_ ? "rntfaex" : "rntfaexAzZ";
    if (word && same.find(c) == std::string_view::npos) refuse(in_.substr(i_, 2));
    replace(in_.substr(i_, 2));
  }

  // A class written out as items of a set, for the `length` bytes of the pattern at i_.
  void set_items(const std::string& inside, bool negated, std::size_t length) {
    if (in_set_ && negated) refuse(in_.substr(i_, length));
    out_ += in_set_ ? inside : (negated ? "[^" : "[") + inside + "]";
    i_ += length;
  }

  void property(bool negated) {
    const std::size_t close = in_.find('}', i_);
    if (in_.substr(i_ + 2, 1) != "{" || close == std::string_view::npos) refuse(in_.substr(i_, 2));
    std::string_view name = in_.substr(i_ + 3, close - i_ - 3);
    if (name.substr(0, 1) == "^") {
      negated = !negated;
      name.remove_prefix(1);
    }
    const std::size_t length = close + 1 - i_;
    if (const std::string inside = category_items(name); !inside.empty())
      return set_items(inside, negated, length);
    const bool script = !is_category(name) && name != "White_Space" && name != "Alphabetic" && name != "Any";
    out_ += fmt::format("\\{}{{{}{}}}", negated ? 'P' : 'p', script ? "sc:" : "", name);
    i_ += length;
  }

  void code_unit() {
    const std::string_view digits = in_.substr(std::min(i_ + 2, in_.size()), 4);
    if (digits.size() != 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos) {
      refuse("\\u");
    }
    out_ += "\\x{" + std::string(digits) + "}";
    i_ += 6;
  }

  std::string_view in_;
  const JsonNode& place_;
  std::size_t i_ = 0;
  bool in_set_ = false;
  std::string out_;
};

}  // namespace

std::string translate_pattern(std::string_view pattern, const JsonNode& place) {
  return Translator(pattern, place).run();
}

}  // namespace slidesparse::tok
