#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace slidesparse::tok {

// Offset of the first byte that is not part of valid UTF-8, or nothing.
std::optional<std::size_t> find_invalid_utf8(std::string_view text);

// Appends `text` to `out` with every maximal invalid part replaced by U+FFFD. When `last` is false, an
// incomplete sequence at the end is left alone. Returns the number of bytes consumed.
std::size_t append_lossy_utf8(std::string_view text, bool last, std::string& out);

// Bytes of the UTF-8 character that starts with `lead`, in valid UTF-8.
inline std::size_t utf8_length(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

// The code point at text[i], in valid UTF-8.
char32_t code_point_at(std::string_view text, std::size_t i);
// Start of the character that ends before text[i], i > 0, in valid UTF-8.
std::size_t previous_character(std::string_view text, std::size_t i);
// `code_point` as UTF-8.
std::string utf8_of(char32_t code_point);

// Unicode classes as the `tokenizers` library uses them.
bool is_white_space(char32_t c);  // property White_Space
bool is_numeric(char32_t c);      // general category N
bool is_word(char32_t c);         // Alphabetic, M, Nd, Pc, Join_Control

// The byte-level alphabet of GPT-2: each byte is written as one visible character.
std::string byte_level_spelling(std::string_view bytes);
// The way back; nothing when a character is not in the alphabet.
std::optional<std::string> byte_level_bytes(std::string_view spelling);

}  // namespace slidesparse::tok
