#include "io/tokenizer/regex.h"

#include <gtest/gtest.h>

#include "io/tokenizer/unicode.h"
#include "slidesparse/core/error.h"

namespace slidesparse::tok {
namespace {

const nlohmann::json kNothing;
const JsonNode kPlace(kNothing, "t.json", "pre_tokenizer.pattern");

// Matches in brackets.
std::string marked(const std::string& pattern, const std::string& text) {
  std::string out;
  std::size_t done = 0;
  Regex(pattern, kPlace).for_each_match(text, [&](std::size_t start, std::size_t end) {
    out += text.substr(done, start - done) + "[" + text.substr(start, end - start) + "]";
    done = end;
  });
  return out + text.substr(done);
}

std::string error_of(const std::string& pattern, const std::string& text) {
  try {
    marked(pattern, text);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Regex, ReadsPatternsLikeOniguruma) {
  EXPECT_EQ(marked(R"(\s)", "a\u0085b\u180ec d"), "a[\u0085]b\u180ec[ ]d");
  EXPECT_EQ(marked(R"([^\S\n]+)", "a \t\nb"), "a[ \t]\nb");
  EXPECT_EQ(marked(R"(\w+)", "a\u0301_1-\u4e16"), "[a\u0301_1]-[\u4e16]");
  EXPECT_EQ(marked(R"(\W)", "a\u0301 b"), "a\u0301[ ]b");
  EXPECT_EQ(marked(R"(\h+)", "x1f\tg"), "x[1f]\tg");
  EXPECT_EQ(marked(R"(\v)", "a\nb\vc"), "a\nb[\v]c");
  EXPECT_EQ(marked(R"([\u0041-\u0043])", "xBD"), "x[B]D");
  EXPECT_EQ(marked(R"(^a|b$)", "ab\nab"), "[a][b]\n[a][b]");
  EXPECT_EQ(marked(R"(.)", "\r\n"), "[\r]\n");
  EXPECT_EQ(marked(R"((?i:'s))", "'S'\u017f's"), "['S]['\u017f]['s]");
  EXPECT_EQ(marked(R"(\p{Han})", "\u4e16\u3001"), "[\u4e16]\u3001");
  EXPECT_EQ(marked(R"(\p{^L}|\P{L})", "a1b"), "a[1]b");
  // Letters and digits of Unicode 15 and 16.
  EXPECT_EQ(marked(R"(\p{L}+|\p{N}+)", "\U00031350a\U00010d40"), "[\U00031350a][\U00010d40]");
}

TEST(Regex, EmptyMatchesCountExceptBehindAMatch) {
  EXPECT_EQ(marked("[0-9]*", "a12b"), "[]a[12]b[]");
  EXPECT_EQ(marked("(?=b)", "ab\u4e16b"), "a[]b\u4e16[]b");
  EXPECT_EQ(marked("", "\u4e16a"), "[]\u4e16[]a[]");
}

TEST(Regex, FindsMatchesFarApart) {
  const std::string gap(1000, '-');
  const std::string wide = [] {
    std::string text;
    for (int i = 0; i < 333; ++i) text += "\u4e16";
    return text;
  }();
  EXPECT_EQ(marked("x", gap + "x" + wide + "x" + gap), gap + "[x]" + wide + "[x]" + gap);
}

TEST(Regex, LiteralTextNeedsNoEscapes) {
  const std::string text = "a.b*(\\d)[^x] #\n\u4e16{2}$\\E|";
  int count = 0;
  Regex::literal(text, kPlace).for_each_match("-" + text + "-", [&](std::size_t start, std::size_t end) {
    EXPECT_EQ(start, 1u);
    EXPECT_EQ(end, 1 + text.size());
    ++count;
  });
  EXPECT_EQ(count, 1);
  EXPECT_EQ(Regex::literal(".", kPlace).replace_all("a.b.", "\\0$1"), "a\\0$1b\\0$1");
}

TEST(Regex, RefusesWhatItCannotSay) {
  for (const char* pattern :
       {R"(\b)", R"(\G)", R"(\R)", R"(\X)", R"(\K)", R"([\W])", R"([\D])", R"([a[b]])", R"([a&&b])",
        R"((?m:.))", R"((?<n>a))", R"(\u12)", R"(\pL)", R"(\Q.\E)", "[]", "(?", "a\\"}) {
    const std::string error = error_of(pattern, "a");
    EXPECT_NE(error.find("t.json: pre_tokenizer.pattern: pattern \""), std::string::npos)
        << pattern << ": " << error;
    EXPECT_NE(error.find("is not supported"), std::string::npos) << pattern << ": " << error;
  }
}

TEST(Regex, RefusesWhatDoesNotCompile) {
  for (const char* pattern :
       {"(", "a)", "[a", "*", "a{2,1}", R"(\p{Klingon})", R"(\p{}))", R"((?<=a+)b)", R"(\x{110000})"}) {
    const std::string error = error_of(pattern, "a");
    EXPECT_NE(error.find("does not compile: "), std::string::npos) << pattern << ": " << error;
    EXPECT_EQ(error.find('\n'), std::string::npos);
  }
  EXPECT_NE(error_of(std::string(500, '(') + std::string(500, ')'), "a").find("does not compile"),
            std::string::npos);
}

TEST(Regex, GivesUpOnPatternsThatExplode) {
  const std::string error = error_of("(a+)+$", std::string(40, 'a') + "b");
  EXPECT_NE(error.find(
                "t.json: pre_tokenizer.pattern: pattern \"(a+)+$\" gives up at byte 0 of a text of 41 bytes"),
            std::string::npos)
      << error;
}

}  // namespace
}  // namespace slidesparse::tok
