#include <immintrin.h>

#include <algorithm>

#include "format/row_kernels.h"

#define SLIDESPARSE_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi2,bmi,bmi2,popcnt")))

namespace slidesparse {
namespace {

template <int E>
constexpr int kLanes = 64 / E;  // lanes of one register

// The lowest `count` lanes of a register, 0 <= count.
template <int E>
SLIDESPARSE_AVX512 inline std::uint64_t first_lanes(std::int64_t count) {
  return _bzhi_u64(~std::uint64_t{0}, static_cast<unsigned>(std::min<std::int64_t>(count, kLanes<E>)));
}

template <int E>
SLIDESPARSE_AVX512 inline __m512i load(const std::uint8_t* from, std::int64_t lanes) {
  if (lanes >= kLanes<E>) return _mm512_loadu_si512(from);
  if (lanes <= 0) return _mm512_setzero_si512();
  return _mm512_maskz_loadu_epi8(_bzhi_u64(~std::uint64_t{0}, static_cast<unsigned>(lanes * E)), from);
}

template <int E>
SLIDESPARSE_AVX512 inline void store(std::uint8_t* to, __m512i x, std::int64_t lanes) {
  if (lanes >= kLanes<E>) {
    _mm512_storeu_si512(to, x);
  } else if (lanes > 0) {
    _mm512_mask_storeu_epi8(to, _bzhi_u64(~std::uint64_t{0}, static_cast<unsigned>(lanes * E)), x);
  }
}

// Lanes with a bit inside `mask`.
template <int E>
SLIDESPARSE_AVX512 inline std::uint64_t test(__m512i x, __m512i mask) {
  if constexpr (E == 1) {
    return _mm512_test_epi8_mask(x, mask);
  } else {
    return _mm512_test_epi16_mask(x, mask);
  }
}

template <int E>
SLIDESPARSE_AVX512 std::int64_t scan(const void* row, std::int64_t k, unsigned magnitude, std::uint64_t* any,
                                     std::uint64_t* real) {
  const auto* bytes = static_cast<const std::uint8_t*>(row);
  const __m512i mask = E == 1 ? _mm512_set1_epi8(static_cast<char>(magnitude))
                              : _mm512_set1_epi16(static_cast<short>(magnitude));
  std::int64_t count = 0;
  for (std::int64_t base = 0; base < k; base += 64) {
    std::uint64_t any_word = 0;
    std::uint64_t real_word = 0;
    for (int i = 0; i < E; ++i) {
      const std::int64_t lane = base + i * kLanes<E>;
      const __m512i x = load<E>(bytes + lane * E, k - lane);
      any_word |= test<E>(x, x) << (i * 32);
      real_word |= test<E>(x, mask) << (i * 32);
    }
    any[base / 64] = any_word;
    real[base / 64] = real_word;
    count += __builtin_popcountll(real_word);
  }
  return count;
}

template <int E>
SLIDESPARSE_AVX512 void compress(const void* row, std::int64_t k, const std::uint64_t* keep,
                                 std::int64_t words, void* values, std::int64_t count) {
  const auto* bytes = static_cast<const std::uint8_t*>(row);
  auto* out = static_cast<std::uint8_t*>(values);
  for (std::int64_t word = 0; word < words; ++word) {
    for (int i = 0; i < E; ++i) {
      const std::int64_t lane = word * 64 + i * kLanes<E>;
      const std::uint64_t bits = (keep[word] >> (i * 32)) & first_lanes<E>(kLanes<E>);
      const __m512i x = load<E>(bytes + lane * E, k - lane);
      // In a register and then stored whole: compressing straight to memory is microcoded on some processors.
      __m512i packed;
      if constexpr (E == 1) {
        packed = _mm512_maskz_compress_epi8(bits, x);
      } else {
        packed = _mm512_maskz_compress_epi16(static_cast<__mmask32>(bits), x);
      }
      store<E>(out, packed, count);
      const std::int64_t filled = __builtin_popcountll(bits);
      out += filled * E;
      count -= filled;
    }
  }
}

template <int E>
SLIDESPARSE_AVX512 void expand(const void* values, std::int64_t count, const std::uint64_t* keep, void* row,
                               std::int64_t k) {
  const auto* next = static_cast<const std::uint8_t*>(values);
  auto* out = static_cast<std::uint8_t*>(row);
  for (std::int64_t lane = 0; lane < k; lane += kLanes<E>) {
    const std::uint64_t bits = (keep[lane / 64] >> (lane % 64)) & first_lanes<E>(kLanes<E>);
    const __m512i x = load<E>(next, count);
    __m512i full;
    if constexpr (E == 1) {
      full = _mm512_maskz_expand_epi8(bits, x);
    } else {
      full = _mm512_maskz_expand_epi16(static_cast<__mmask32>(bits), x);
    }
    store<E>(out + lane * E, full, k - lane);
    const std::int64_t taken = __builtin_popcountll(bits);
    next += taken * E;
    count -= taken;
  }
}

template <int E>
constexpr RowKernels kKernels{scan<E>, compress<E>, expand<E>};

}  // namespace

const RowKernels& avx512_row_kernels(std::size_t element_size) {
  return element_size == 1 ? kKernels<1> : kKernels<2>;
}

}  // namespace slidesparse
