#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "format/row_kernels.h"

#define SLIDESPARSE_AVX2 __attribute__((target("avx2,bmi,bmi2,popcnt")))

namespace slidesparse {
namespace {

// Lanes of 64 elements, 64 * E bytes at `from`, with a bit inside `mask`.
template <int E>
SLIDESPARSE_AVX2 inline std::uint64_t lanes_inside(const std::uint8_t* from, __m256i mask) {
  const __m256i zero = _mm256_setzero_si256();
  const auto* x = reinterpret_cast<const __m256i*>(from);
  std::uint64_t zeros = 0;
  for (int i = 0; i < 2; ++i) {
    __m256i equal;
    if constexpr (E == 1) {
      equal = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_loadu_si256(x + i), mask), zero);
    } else {
      const __m256i low = _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_loadu_si256(x + 2 * i), mask), zero);
      const __m256i high =
          _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_loadu_si256(x + 2 * i + 1), mask), zero);
      // packs works within 128-bit halves: put the four quarters back into order.
      equal = _mm256_permute4x64_epi64(_mm256_packs_epi16(low, high), 0xd8);
    }
    zeros |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm256_movemask_epi8(equal))) << (32 * i);
  }
  return ~zeros;
}

template <int E>
SLIDESPARSE_AVX2 std::int64_t scan(const void* row, std::int64_t k, unsigned magnitude, std::uint64_t* any,
                                   std::uint64_t* real) {
  const auto* bytes = static_cast<const std::uint8_t*>(row);
  const __m256i all = _mm256_set1_epi8(-1);
  const __m256i mask = E == 1 ? _mm256_set1_epi8(static_cast<char>(magnitude))
                              : _mm256_set1_epi16(static_cast<short>(magnitude));
  std::int64_t count = 0;
  for (std::int64_t base = 0; base < k; base += 64) {
    const std::uint8_t* from = bytes + base * E;
    std::uint8_t tail[64 * E];
    if (k - base < 64) {
      std::memset(tail, 0, sizeof(tail));
      std::memcpy(tail, from, static_cast<std::size_t>((k - base) * E));
      from = tail;
    }
    const std::uint64_t real_word = lanes_inside<E>(from, mask);
    any[base / 64] = lanes_inside<E>(from, all);
    real[base / 64] = real_word;
    count += __builtin_popcountll(real_word);
  }
  return count;
}

// The next 8 / E lanes of `bits` as a mask of whole elements in a 64-bit word.
template <int E>
SLIDESPARSE_AVX2 inline std::uint64_t element_mask(std::uint64_t bits) {
  return E == 1 ? _pdep_u64(bits, 0x0101010101010101u) * 0xffu
                : _pdep_u64(bits, 0x0001000100010001u) * 0xffffu;
}

// The inner loops below see 64 lanes with room to read and write whole words; tails go through copies with
// room.
template <int E>
SLIDESPARSE_AVX2 inline std::uint8_t* compress_word(const std::uint8_t* lanes, std::uint64_t bits,
                                                    std::uint8_t* out) {
  constexpr int kStep = 8 / E;  // lanes in a 64-bit word
  for (int lane = 0; lane < 64; lane += kStep, bits >>= kStep) {
    std::uint64_t x = 0;
    std::memcpy(&x, lanes + lane * E, 8);
    const std::uint64_t chosen = bits & ((1u << kStep) - 1);
    x = _pext_u64(x, element_mask<E>(chosen));
    std::memcpy(out, &x, 8);  // the surplus is overwritten by the next word
    out += __builtin_popcountll(chosen) * E;
  }
  return out;
}

template <int E>
SLIDESPARSE_AVX2 void compress(const void* row, std::int64_t k, const std::uint64_t* keep, std::int64_t words,
                               void* values, std::int64_t count) {
  const auto* bytes = static_cast<const std::uint8_t*>(row);
  auto* out = static_cast<std::uint8_t*>(values);
  const std::uint8_t* const end = out + count * E;
  for (std::int64_t word = 0; word < words; ++word) {
    const std::uint8_t* lanes = bytes + word * 64 * E;
    const std::int64_t here = k - word * 64;
    std::uint8_t tail[64 * E];
    if (here < 64) {
      std::memset(tail, 0, sizeof(tail));
      if (here > 0) std::memcpy(tail, lanes, static_cast<std::size_t>(here * E));
      lanes = tail;
    }
    if (end - out >= 64 * E) {
      out = compress_word<E>(lanes, keep[word], out);
    } else {
      std::uint8_t packed[64 * E + 8];
      const std::int64_t filled = compress_word<E>(lanes, keep[word], packed) - packed;
      std::memcpy(out, packed, static_cast<std::size_t>(filled));
      out += filled;
    }
  }
}

template <int E>
SLIDESPARSE_AVX2 inline const std::uint8_t* expand_word(const std::uint8_t* next, std::uint64_t bits,
                                                        std::uint8_t* lanes) {
  constexpr int kStep = 8 / E;
  for (int lane = 0; lane < 64; lane += kStep, bits >>= kStep) {
    std::uint64_t x = 0;
    std::memcpy(&x, next, 8);
    const std::uint64_t chosen = bits & ((1u << kStep) - 1);
    next += __builtin_popcountll(chosen) * E;
    x = _pdep_u64(x, element_mask<E>(chosen));
    std::memcpy(lanes + lane * E, &x, 8);
  }
  return next;
}

template <int E>
SLIDESPARSE_AVX2 void expand(const void* values, std::int64_t count, const std::uint64_t* keep, void* row,
                             std::int64_t k) {
  const auto* next = static_cast<const std::uint8_t*>(values);
  const std::uint8_t* const end = next + count * E;
  auto* out = static_cast<std::uint8_t*>(row);
  for (std::int64_t base = 0; base < k; base += 64) {
    // The last step starts behind the last value when all its lanes are kept, hence 8 bytes more.
    std::uint8_t tail[64 * E + 8];
    const std::uint8_t* from = next;
    if (end - next < 64 * E + 8) {
      std::memcpy(tail, next, static_cast<std::size_t>(end - next));
      std::memset(tail + (end - next), 0, sizeof(tail) - static_cast<std::size_t>(end - next));
      from = tail;
    }
    std::uint8_t lanes[64 * E];
    const bool whole = k - base >= 64;
    next += expand_word<E>(from, keep[base / 64], whole ? out + base * E : lanes) - from;
    if (!whole) std::memcpy(out + base * E, lanes, static_cast<std::size_t>((k - base) * E));
  }
}

template <int E>
constexpr RowKernels kKernels{scan<E>, compress<E>, expand<E>};

}  // namespace

const RowKernels& avx2_row_kernels(std::size_t element_size) {
  return element_size == 1 ? kKernels<1> : kKernels<2>;
}

}  // namespace slidesparse
