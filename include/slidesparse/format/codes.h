#pragma once

#include <array>
#include <cstdint>

#include "slidesparse/format/pattern.h"

namespace slidesparse {

// The two lanes of a group that a mask drops, a < b.
struct DroppedPair {
  int a = 0;
  int b = 0;
  constexpr bool operator==(const DroppedPair&) const = default;
};

// code = b(b-1)/2 + a: a bijection between pairs and 0 .. C(2N,2)-1.
constexpr int encode_pair(DroppedPair pair) {
  return pair.b * (pair.b - 1) / 2 + pair.a;
}

constexpr DroppedPair decode_pair(int code) {
  int b = 1;
  while (b * (b + 1) / 2 <= code) ++b;
  return {code - b * (b - 1) / 2, b};
}

// Number of codes of a pattern: C(2N, 2); a larger code is damage. 0 for dense.
constexpr int code_count(Pattern pattern) {
  return pattern.is_dense() ? 0 : pattern.group() * (pattern.group() - 1) / 2;
}

// Bit i set: lane i is kept.
constexpr std::uint32_t kept_mask(Pattern pattern, int code) {
  const DroppedPair pair = decode_pair(code);
  return ((1u << pattern.group()) - 1u) & ~(1u << pair.a) & ~(1u << pair.b);
}

// kept_mask for every value that code_bits() can hold; codes that name no pair have mask 0.
constexpr std::array<std::uint16_t, 128> kept_mask_table(Pattern pattern) {
  std::array<std::uint16_t, 128> table{};
  for (int code = 0; code < code_count(pattern); ++code) {
    table[static_cast<std::size_t>(code)] = static_cast<std::uint16_t>(kept_mask(pattern, code));
  }
  return table;
}

// The code of group g in a row's packed codes.
constexpr int read_code(const std::uint8_t* row_codes, int bits, std::int64_t g) {
  const std::int64_t first = g * bits;
  const std::int64_t byte = first / 8;
  const int shift = static_cast<int>(first % 8);
  unsigned word = row_codes[byte];
  if (shift + bits > 8) word |= static_cast<unsigned>(row_codes[byte + 1]) << 8;
  return static_cast<int>((word >> shift) & ((1u << bits) - 1u));
}

}  // namespace slidesparse
