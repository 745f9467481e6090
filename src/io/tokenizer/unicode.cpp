#include "io/tokenizer/unicode.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <array>

#include "io/tokenizer/unicode_recent.h"

namespace slidesparse::tok {
namespace {

struct Sequence {
  std::size_t length;  // bytes that belong together
  enum { kValid, kInvalid, kIncomplete } state;
};

// The longest prefix of text[i..] that is one character, or could have become one (Unicode's "maximal
// subpart").
Sequence sequence_at(std::string_view text, std::size_t i) {
  const auto lead = static_cast<unsigned char>(text[i]);
  if (lead < 0x80) return {1, Sequence::kValid};
  if (lead < 0xc2 || lead > 0xf4) return {1, Sequence::kInvalid};
  const std::size_t length = utf8_length(text[i]);
  // Overlong forms, surrogates and values above U+10FFFF show in the second byte.
  const unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (std::size_t j = 1; j < length; ++j) {
    if (i + j >= text.size()) return {j, Sequence::kIncomplete};
    const auto byte = static_cast<unsigned char>(text[i + j]);
    if (byte < (j == 1 ? low : 0x80) || byte > (j == 1 ? high : 0xbf)) return {j, Sequence::kInvalid};
  }
  return {length, Sequence::kValid};
}

struct ByteAlphabet {
  std::array<char32_t, 256> character;
  std::array<std::int16_t, 0x180> byte;  // -1 where a character stands for no byte
};

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet = [] {
    ByteAlphabet result{};
    result.byte.fill(-1);
    char32_t next = 0x100;  // bytes without a visible Latin-1 character are numbered from here
    for (unsigned b = 0; b < 256; ++b) {
      const bool visible = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      const char32_t c = visible ? b : next++;
      result.character[b] = c;
      result.byte[c] = static_cast<std::int16_t>(b);
    }
    return result;
  }();
  return alphabet;
}

}  // namespace

std::optional<std::size_t> find_invalid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const Sequence sequence = sequence_at(text, i);
    if (sequence.state != Sequence::kValid) return i;
    i += sequence.length;
  }
  return std::nullopt;
}

std::size_t append_lossy_utf8(std::string_view text, bool last, std::string& out) {
  for (std::size_t i = 0; i < text.size();) {
    const Sequence sequence = sequence_at(text, i);
    if (sequence.state == Sequence::kIncomplete && !last) return i;
    if (sequence.state == Sequence::kValid) {
      out += text.substr(i, sequence.length);
    } else {
      out += "\xef\xbf\xbd";
    }
    i += sequence.length;
  }
  return text.size();
}

char32_t code_point_at(std::string_view text, std::size_t i) {
  const auto byte = [&](std::size_t j) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[i + j]));
  };
  switch (utf8_length(text[i])) {
    case 1:
      return byte(0);
    case 2:
      return (byte(0) & 0x1f) << 6 | (byte(1) & 0x3f);
    case 3:
      return (byte(0) & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f);
    default:
      return (byte(0) & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f);
  }
}

std::size_t previous_character(std::string_view text, std::size_t i) {
  do {
    --i;
  } while (i > 0 && (static_cast<unsigned char>(text[i]) & 0xc0) == 0x80);
  return i;
}

std::string utf8_of(char32_t c) {
  std::string out;
  const auto put = [&](char32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
  const auto tail = [&](unsigned shift) { put(0x80 | ((c >> shift) & 0x3f)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xc0 | c >> 6), tail(0);
  } else if (c < 0x10000) {
    put(0xe0 | c >> 12), tail(6), tail(0);
  } else {
    put(0xf0 | c >> 18), tail(12), tail(6), tail(0);
  }
  return out;
}

bool is_white_space(char32_t c) {
  return u_isUWhiteSpace(static_cast<UChar32>(c)) != 0;
}

bool is_numeric(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const auto holds = [&](const CodeRange& range) { return c >= range.first && c <= range.last; };
  return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_N_MASK) != 0 ||
         std::any_of(kRecentDigits.begin(), kRecentDigits.end(), holds) ||
         std::any_of(kRecentOtherNumbers.begin(), kRecentOtherNumbers.end(), holds);
}

bool is_word(char32_t c) {
  const auto code = static_cast<UChar32>(c);
  return u_hasBinaryProperty(code, UCHAR_ALPHABETIC) || u_hasBinaryProperty(code, UCHAR_JOIN_CONTROL) ||
         (U_GET_GC_MASK(code) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0;
}

std::string byte_level_spelling(std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) out += utf8_of(byte_alphabet().character[static_cast<unsigned char>(byte)]);
  return out;
}

std::optional<std::string> byte_level_bytes(std::string_view spelling) {
  const auto& table = byte_alphabet().byte;
  std::string out;
  for (std::size_t i = 0; i < spelling.size(); i += utf8_length(spelling[i])) {
    const char32_t c = code_point_at(spelling, i);
    if (c >= table.size() || table[c] < 0) return std::nullopt;
    out += static_cast<char>(static_cast<unsigned char>(table[c]));
  }
  return out;
}

}  // namespace slidesparse::tok
