#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "format/row_kernels.h"

#define SLIDESPARSE_AVX2 __attribute__((target("avx2,bmi,bmi2,popcnt")))

namespace slidesparse {
namespace {

// Bytes of a 64-lane step of `E`-byte elements, as AVX2 registers.
template <int E>
constexpr int kRegisters = 64 * E / 32;

// Lanes of 64 elements whose bits in `mask` are all zero.
template <int E>
SLIDESPARSE_AVX2 inline std::uint64_t zero_lanes(const __m256i* x, __m256i mask) {
  const __m256i zero = _mm256_setzero_si256();
  std::uint64_t result = 0;
  if constexpr (E == 1) {
    for (int i = 0; i < 2; ++i) {
      const __m256i equal = _mm256_cmpeq_epi8(_mm256_and_si256(x[i], mask), zero);
      result |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm256_movemask_epi8(equal)))
                << (32 * i);
    }
  } else {
    for (int i = 0; i < 2; ++i) {
      const __m256i low = _mm256_cmpeq_epi16(_mm256_and_si256(x[2 * i], mask), zero);
      const __m256i high = _mm256_cmpeq_epi16(_mm256_and_si256(x[2 * i + 1], mask), zero);
      // packs works within 128-bit halves: put the four quarters back into order.
      const __m256i equal = _mm256_permute4x64_epi64(_mm256_packs_epi16(low, high), 0xd8);
      result |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm256_movemask_epi8(equal)))
                << (32 * i);
    }
  }
  return result;
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
    __m256i x[kRegisters<E>];
    if (k - base >= 64) {
      std::memcpy(x, bytes + base * E, sizeof(x));
    } else {
      std::memset(x, 0, sizeof(x));
      std::memcpy(x, bytes + base * E, static_cast<std::size_t>((k - base) * E));
    }
    const std::uint64_t real_word = ~zero_lanes<E>(x, mask);
    any[base / 64] = ~zero_lanes<E>(x, all);
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

template <int E>
SLIDESPARSE_AVX2 void compress(const void* row, std::int64_t k, const std::uint64_t* keep, std::int64_t words,
                               void* values, std::int64_t count) {
  constexpr int kStep = 8 / E;  // lanes in a 64-bit word
  const auto* bytes = static_cast<const std::uint8_t*>(row);
  auto* out = static_cast<std::uint8_t*>(values);
  const std::uint8_t* const end = out + count * E;
  for (std::int64_t word = 0; word < words; ++word) {
    std::uint64_t bits = keep[word];
    for (std::int64_t lane = word * 64; bits != 0; lane += kStep, bits >>= kStep) {
      std::uint64_t x = 0;
      if (lane + kStep <= k) {
        std::memcpy(&x, bytes + lane * E, 8);
      } else if (lane < k) {
        std::memcpy(&x, bytes + lane * E, static_cast<std::size_t>((k - lane) * E));
      }
      const std::uint64_t mask = element_mask<E>(bits & ((1u << kStep) - 1));
      x = _pext_u64(x, mask);
      const std::int64_t filled = __builtin_popcountll(mask) / 8;
      if (end - out >= 8) {
        std::memcpy(out, &x, 8);  // the surplus is overwritten by the next word
      } else {
        std::memcpy(out, &x, static_cast<std::size_t>(filled));
      }
      out += filled;
    }
  }
}

template <int E>
SLIDESPARSE_AVX2 void expand(const void* values, std::int64_t count, const std::uint64_t* keep, void* row,
                             std::int64_t k) {
  constexpr int kStep = 8 / E;
  const auto* next = static_cast<const std::uint8_t*>(values);
  const std::uint8_t* const end = next + count * E;
  auto* out = static_cast<std::uint8_t*>(row);
  for (std::int64_t lane = 0; lane < k; lane += kStep) {
    const std::uint64_t mask = element_mask<E>((keep[lane / 64] >> (lane % 64)) & ((1u << kStep) - 1));
    std::uint64_t x = 0;
    if (end - next >= 8) {
      std::memcpy(&x, next, 8);
    } else {
      std::memcpy(&x, next, static_cast<std::size_t>(end - next));
    }
    next += __builtin_popcountll(mask) / 8;
    x = _pdep_u64(x, mask);
    if (lane + kStep <= k) {
      std::memcpy(out + lane * E, &x, 8);
    } else {
      std::memcpy(out + lane * E, &x, static_cast<std::size_t>((k - lane) * E));
    }
  }
}

template <int E>
constexpr RowKernels kKernels{scan<E>, compress<E>, expand<E>};

}  // namespace

const RowKernels& avx2_row_kernels(std::size_t element_size) {
  return element_size == 1 ? kKernels<1> : kKernels<2>;
}

}  // namespace slidesparse
