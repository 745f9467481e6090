#include "io/tokenizer/unicode.h"

#include <gtest/gtest.h>

namespace slidesparse::tok {
namespace {

TEST(Unicode, EveryCodePointIsValidAndComesBack) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    const std::string text = utf8_of(c);
    const bool surrogate = c >= 0xd800 && c < 0xe000;
    ASSERT_EQ(find_invalid_utf8(text).has_value(), surrogate);
    if (surrogate) continue;
    ASSERT_EQ(code_point_at(text, 0), c);
    ASSERT_EQ(utf8_length(text[0]), text.size());
    ASSERT_EQ(previous_character("x" + text, 1 + text.size()), 1u);
  }
}

// What a straightforward decoder of 1 to 3 bytes says about all of them.
TEST(Unicode, EveryShortByteStringIsJudgedRight) {
  const auto valid = [](unsigned a, unsigned b, unsigned c) {
    const auto tail = [](unsigned x) { return x >= 0x80 && x < 0xc0; };
    if (a < 0x80 && b < 0x80 && c < 0x80) return true;
    if (a < 0x80) return b >= 0xc2 && b < 0xe0 && tail(c);
    if (a < 0xe0) return a >= 0xc2 && tail(b) && c < 0x80;
    const unsigned code = (a & 15) << 12 | (b & 63) << 6 | (c & 63);
    return a < 0xf0 && tail(b) && tail(c) && code >= 0x800 && (code < 0xd800 || code >= 0xe000);
  };
  for (unsigned bytes = 0; bytes < 1u << 24; ++bytes) {
    const unsigned a = bytes >> 16, b = bytes >> 8 & 255, c = bytes & 255;
    const char text[3] = {static_cast<char>(a), static_cast<char>(b), static_cast<char>(c)};
    ASSERT_EQ(!find_invalid_utf8(std::string_view(text, 3)), valid(a, b, c)) << std::hex << bytes;
  }
}

std::string lossy(std::string_view text, bool last) {
  std::string out;
  const std::size_t consumed = append_lossy_utf8(text, last, out);
  return out + "|" + std::to_string(consumed);
}

TEST(Unicode, MaximalSubpartsAreReplaced) {
  const std::string r = "\xef\xbf\xbd";
  // The examples of the Unicode Standard, tables 3-8 to 3-11.
  EXPECT_EQ(lossy("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", true), r + r + r + r + r + r + r + r + "A|9");
  EXPECT_EQ(lossy("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", true), r + r + r + r + r + r + r + r + "A|9");
  EXPECT_EQ(lossy("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", true), r + r + r + r + r + "A" + r + r + "B|9");
  EXPECT_EQ(lossy("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", true), r + r + r + r + "A|9");
  EXPECT_EQ(lossy("A\xf0\x9f\x98", true), "A" + r + "|4");
  EXPECT_EQ(lossy("A\xf0\x9f\x98", false), "A|1");
  EXPECT_EQ(lossy("A\xf0\x41", false), "A" + r + "A|3");
}

TEST(Unicode, ByteAlphabetIsABijection) {
  std::string all;
  for (int b = 0; b < 256; ++b) all += static_cast<char>(b);
  EXPECT_EQ(byte_level_bytes(byte_level_spelling(all)), all);
  EXPECT_EQ(byte_level_spelling(" \n\xff"
                                "a"),
            "\u0120\u010a\u00ffa");
  EXPECT_EQ(byte_level_bytes("a b"), std::nullopt);
  EXPECT_EQ(byte_level_bytes("\u4e16"), std::nullopt);
  EXPECT_EQ(byte_level_bytes("\u0144"), std::nullopt);
}

TEST(Unicode, ClassesOfCharacters) {
  EXPECT_TRUE(is_white_space(0x85) && is_white_space(0x3000) && is_white_space('\v'));
  EXPECT_FALSE(is_white_space(0x180e) || is_white_space(0x200b) || is_white_space('_'));
  EXPECT_TRUE(is_numeric('7') && is_numeric(0xb2) && is_numeric(0x2167) && is_numeric(0x10d40) &&
              is_numeric(0x1d2c5));
  EXPECT_FALSE(is_numeric(0x4e00) || is_numeric('a') || is_numeric('/') || is_numeric(':'));
  EXPECT_TRUE(is_word('_') && is_word(0x301) && is_word(0x200d) && is_word(0x4e16) && is_word('0'));
  EXPECT_FALSE(is_word('-') || is_word(0xb2) || is_word(' ') || is_word(0x1f600));
}

}  // namespace
}  // namespace slidesparse::tok
