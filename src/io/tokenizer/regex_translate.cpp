#include "core/text.h"
#include "io/tokenizer/regex.h"
#include "io/tokenizer/unicode.h"

// Oniguruma's default (Ruby) syntax against PCRE2 with UTF and UCP. Different, and translated here:
//   \s \S   Unicode's White_Space there, without U+0085 and with U+180E here
//   \w      Alphabetic, M, Nd, Pc there, L, N and underscore here
//   \h \H   a hexadecimal digit there, horizontal space here
//   \v      the vertical tab there, vertical space here
//   \uHHHH  not known here
//   ^ $     the ends of every line there (compile option here)
// Different and refused: nested sets and && in sets, (?m) = "dot matches newline", \b \B \G \K \R \X \y and
// others.
namespace slidesparse::tok {
namespace {

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
    const auto either = [&](std::string_view inside, std::string_view outside) {
      replace(in_set_ ? inside : outside);
    };
    switch (c) {
      case 's':
        return replace("\\p{White_Space}");
      case 'S':
        return replace("\\P{White_Space}");
      case 'w':
        return either("\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}", "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]");
      case 'h':
        return either("0-9A-Fa-f", "[0-9A-Fa-f]");
      case 'v':
        return replace("\\x{0b}");
      case 'u':
        return code_unit();
      case 'W':
      case 'H':
        if (in_set_) refuse(in_.substr(i_, 2));
        return replace(c == 'W' ? "[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]" : "[^0-9A-Fa-f]");
      default:
        break;
    }
    // The same in both: digits, properties, control characters, \x, back-references, anchors, punctuation.
    const bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const std::string_view same = in_set_ ? "dDpPrntfaex" : "dDpPrntfaexAzZ";
    if (word && same.find(c) == std::string_view::npos) refuse(in_.substr(i_, 2));
    replace(in_.substr(i_, 2));
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
