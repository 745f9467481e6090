#include "format/row_kernels.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace slidesparse {
namespace {

// Lanes of a 64-bit word of elements that are not zero, as its lowest bits.
template <typename T>
std::uint64_t non_zero_lanes(std::uint64_t word) {
  constexpr bool kByte = sizeof(T) == 1;
  constexpr std::uint64_t kSigns = kByte ? 0x8080808080808080u : 0x8000800080008000u;
  // Adding all ones below the sign carries into it unless they were all zero; no carry leaves its element.
  const std::uint64_t marks = ((((word & ~kSigns) + ~kSigns) | word) & kSigns) >> (kByte ? 7 : 15);
  // Bit 8 i (16 i) moves to bit 56 + i (48 + i); the other products miss those places and each other.
  return kByte ? marks * 0x0102040810204080u >> 56 : marks * 0x0001000200040008u >> 48 & 0xfu;
}

template <typename T>
std::int64_t scan(const void* row, std::int64_t k, unsigned magnitude, std::uint64_t* any,
                  std::uint64_t* real) {
  constexpr int kStep = 8 / static_cast<int>(sizeof(T));  // lanes in a 64-bit word
  const T* lanes = static_cast<const T*>(row);
  const std::uint64_t mask = magnitude * (sizeof(T) == 1 ? 0x0101010101010101u : 0x0001000100010001u);
  std::int64_t count = 0;
  for (std::int64_t base = 0; base < k; base += 64) {
    const int width = static_cast<int>(std::min<std::int64_t>(64, k - base));
    std::uint64_t any_word = 0;
    std::uint64_t real_word = 0;
    for (int j = 0; j < width; j += kStep) {
      std::uint64_t word = 0;
      if (width - j >= kStep) {
        std::memcpy(&word, lanes + base + j, sizeof(word));
      } else {
        std::memcpy(&word, lanes + base + j, static_cast<std::size_t>(width - j) * sizeof(T));
      }
      any_word |= non_zero_lanes<T>(word) << j;
      real_word |= non_zero_lanes<T>(word & mask) << j;
    }
    any[base / 64] = any_word;
    real[base / 64] = real_word;
    count += std::popcount(real_word);
  }
  return count;
}

template <typename T>
void compress(const void* row, std::int64_t k, const std::uint64_t* keep, std::int64_t words, void* values,
              std::int64_t /*count*/) {
  const T* lanes = static_cast<const T*>(row);
  T* out = static_cast<T*>(values);
  for (std::int64_t word = 0; word < words; ++word) {
    for (std::uint64_t bits = keep[word]; bits != 0; bits &= bits - 1) {
      const std::int64_t lane = word * 64 + std::countr_zero(bits);
      *out++ = lane < k ? lanes[lane] : T{0};
    }
  }
}

template <typename T>
void expand(const void* values, std::int64_t /*count*/, const std::uint64_t* keep, void* row,
            std::int64_t k) {
  const T* next = static_cast<const T*>(values);
  T* lanes = static_cast<T*>(row);
  std::memset(lanes, 0, static_cast<std::size_t>(k) * sizeof(T));
  for (std::int64_t base = 0; base < k; base += 64) {
    std::uint64_t bits = keep[base / 64];
    if (k - base < 64) bits &= (std::uint64_t{1} << (k - base)) - 1;
    for (; bits != 0; bits &= bits - 1) lanes[base + std::countr_zero(bits)] = *next++;
  }
}

template <typename T>
constexpr RowKernels kKernels{scan<T>, compress<T>, expand<T>};

}  // namespace

const RowKernels& portable_row_kernels(std::size_t element_size) {
  return element_size == 1 ? kKernels<std::uint8_t> : kKernels<std::uint16_t>;
}

const RowKernels& row_kernels(Isa isa, std::size_t element_size) {
  switch (isa) {
    case Isa::kAvx512:
      return avx512_row_kernels(element_size);
    case Isa::kAvx2:
      return avx2_row_kernels(element_size);
    case Isa::kPortable:
      break;
  }
  return portable_row_kernels(element_size);
}

}  // namespace slidesparse
