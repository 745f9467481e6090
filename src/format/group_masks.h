#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

#include "slidesparse/format/codes.h"
#include "slidesparse/format/pattern.h"

// Masks of lanes <-> codes, eight groups of 2N lanes at a time: their masks fill 2N bytes and their codes
// fill code_bits() bytes, so nothing straddles a block. Lane masks are byte strings, bit j of byte i being
// lane 8 i + j; masks must be readable and writable mask_bytes(N, groups) bytes long.
namespace slidesparse {

inline constexpr std::uint8_t kNoCode = 0xff;

constexpr std::int64_t mask_bytes(int n, std::int64_t groups) {
  return (groups + 7) / 8 * 2 * n + 8;
}

// kept_code_table<N>()[lanes that must be kept] = the code that keeps them and, to make up 2N-2, the lowest
// of the others: it drops the two highest lanes that are free. kNoCode where fewer than two are.
template <int N>
const std::array<std::uint8_t, (1u << 2 * N)>& kept_code_table() {
  static const auto kTable = [] {
    std::array<std::uint8_t, (1u << 2 * N)> table{};
    for (unsigned lanes = 0; lanes < table.size(); ++lanes) {
      const unsigned free = ~lanes & static_cast<unsigned>(table.size() - 1);
      if (std::popcount(free) < 2) {
        table[lanes] = kNoCode;
        continue;
      }
      const int b = std::bit_width(free) - 1;
      const int a = std::bit_width(free & ~(1u << b)) - 1;
      table[lanes] = static_cast<std::uint8_t>(encode_pair({a, b}));
    }
    return table;
  }();
  return kTable;
}

// Four groups of N half lanes start on a byte: their masks are the low 8 N bits of this word.
inline std::uint64_t load_masks(const std::uint8_t* from) {
  std::uint64_t word = 0;
  std::memcpy(&word, from, sizeof(word));
  return word;
}

// Reads or writes the `wanted` bytes (at most 7) of eight codes where `left` bytes are left in the row: a
// whole word while there is room, whose surplus the next block reads again or overwrites.
inline std::uint64_t load_codes(const std::uint8_t* from, std::int64_t left, int wanted) {
  std::uint64_t word = 0;
  if (left >= static_cast<std::int64_t>(sizeof(word))) {
    std::memcpy(&word, from, sizeof(word));
  } else {
    std::memcpy(&word, from, static_cast<std::size_t>(std::min<std::int64_t>(wanted, left)));
  }
  return word;
}

inline void store_codes(std::uint8_t* to, std::uint64_t word, std::int64_t left, int wanted) {
  if (left >= static_cast<std::int64_t>(sizeof(word))) {
    std::memcpy(to, &word, sizeof(word));
  } else {
    std::memcpy(to, &word, static_cast<std::size_t>(std::min<std::int64_t>(wanted, left)));
  }
}

// The code of a group with more than 2N-2 lanes that are not +0, or kNoCode when more than 2N-2 are not zero
// at all: the +0 lane, if there is one, goes first, then the highest -0 lanes, which are added to
// `negative_zeros`.
template <int N>
std::uint8_t code_without_room(unsigned any, unsigned real, std::int64_t& negative_zeros) {
  unsigned must_stay = any;
  while (std::popcount(must_stay) > 2 * N - 2) {
    const unsigned negative = must_stay & ~real;
    if (negative == 0) return kNoCode;
    must_stay &= ~(1u << (std::bit_width(negative) - 1));
    ++negative_zeros;
  }
  return kept_code_table<N>()[must_stay];
}

// Chooses the kept lanes of a row: `keep` gets 2N-2 lanes a group and `codes` the codes, every byte of
// ceil(groups * bits / 8) written. Returns the first group with more than 2N-2 real lanes, or -1.
template <int N>
std::int64_t choose_lanes(const std::uint8_t* any, const std::uint8_t* real, std::int64_t groups,
                          std::uint8_t* keep, std::uint8_t* codes, std::int64_t& negative_zeros) {
  constexpr Pattern kPattern = Pattern::of_half_group(N);
  constexpr int kBits = kPattern.code_bits();
  constexpr unsigned kFull = (1u << 2 * N) - 1;
  static constexpr auto kKept = kept_mask_table(kPattern);
  const auto& code_of = kept_code_table<N>();
  const std::int64_t code_bytes = (groups * kBits + 7) / 8;
  for (std::int64_t block = 0; block * 8 < groups; ++block) {
    std::uint64_t code_word = 0;
    for (int half = 0; half < 2; ++half) {
      const std::int64_t offset = (block * 2 + half) * N;
      const std::uint64_t lanes = load_masks(any + offset);
      std::uint64_t kept = 0;
      for (int i = 0; i < 4; ++i) {
        const auto group_lanes = static_cast<unsigned>(lanes >> (2 * N * i)) & kFull;
        std::uint8_t code = code_of[group_lanes];
        if (code == kNoCode) [[unlikely]] {
          const auto group_real = static_cast<unsigned>(load_masks(real + offset) >> (2 * N * i)) & kFull;
          code = code_without_room<N>(group_lanes, group_real, negative_zeros);
          if (code == kNoCode) return block * 8 + half * 4 + i;
        }
        kept |= static_cast<std::uint64_t>(kKept[code]) << (2 * N * i);
        code_word |= static_cast<std::uint64_t>(code) << (kBits * (half * 4 + i));
      }
      std::memcpy(keep + offset, &kept, sizeof(kept));
    }
    const std::int64_t left = groups - block * 8;
    if (left < 8) code_word &= (std::uint64_t{1} << (left * kBits)) - 1;
    store_codes(codes + block * kBits, code_word, code_bytes - block * kBits, kBits);
  }
  return -1;
}

// The kept lanes of a row from its codes. Returns the first group whose code names no pair, or -1.
template <int N>
std::int64_t lanes_of_codes(const std::uint8_t* codes, std::int64_t groups, std::uint8_t* keep) {
  constexpr Pattern kPattern = Pattern::of_half_group(N);
  constexpr int kBits = kPattern.code_bits();
  static constexpr auto kKept = kept_mask_table(kPattern);
  const std::int64_t code_bytes = (groups * kBits + 7) / 8;
  for (std::int64_t block = 0; block * 8 < groups; ++block) {
    const std::uint64_t code_word = load_codes(codes + block * kBits, code_bytes - block * kBits, kBits);
    bool bad = false;
    for (int half = 0; half < 2; ++half) {
      std::uint64_t kept = 0;
      for (int i = 0; i < 4; ++i) {
        const std::uint64_t lanes = kKept[(code_word >> (kBits * (half * 4 + i))) & ((1u << kBits) - 1)];
        bad |= lanes == 0;
        kept |= lanes << (2 * N * i);
      }
      std::memcpy(keep + (block * 2 + half) * N, &kept, sizeof(kept));
    }
    if (bad) [[unlikely]] {
      for (std::int64_t g = block * 8; g < std::min(groups, block * 8 + 8); ++g) {
        if (kKept[static_cast<std::size_t>(read_code(codes, kBits, g))] == 0) return g;
      }
    }
  }
  return -1;
}

// The first group with more than 2N-2 lanes set, or -1.
template <int N>
std::int64_t find_crowded_group(const std::uint8_t* real, std::int64_t groups) {
  constexpr unsigned kFull = (1u << 2 * N) - 1;
  for (std::int64_t quad = 0; quad * 4 < groups; ++quad) {
    const std::uint64_t lanes = ~load_masks(real + quad * N);
    bool crowded = false;
    for (int i = 0; i < 4; ++i) {
      const auto free = static_cast<unsigned>(lanes >> (2 * N * i)) & kFull;
      crowded |= (free & (free - 1)) == 0;  // fewer than two lanes are free
    }
    if (crowded) [[unlikely]] {
      for (int i = 0; i < 4; ++i) {
        const auto free = static_cast<unsigned>(lanes >> (2 * N * i)) & kFull;
        if ((free & (free - 1)) == 0) return quad * 4 + i;
      }
    }
  }
  return -1;
}

// Calls the instance of `function` (a template lambda over N) that fits the pattern, which is not dense.
template <typename Function>
decltype(auto) for_half_group(Pattern pattern, Function&& function) {
  switch (pattern.half_group()) {
    case 2:
      return function.template operator()<2>();
    case 3:
      return function.template operator()<3>();
    case 4:
      return function.template operator()<4>();
    case 5:
      return function.template operator()<5>();
    case 6:
      return function.template operator()<6>();
    case 7:
      return function.template operator()<7>();
    default:
      return function.template operator()<8>();
  }
}

}  // namespace slidesparse
