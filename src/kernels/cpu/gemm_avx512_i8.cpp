#include "kernels/cpu/gemm_avx512.h"

namespace slidesparse {
namespace {

// vpdpbusd multiplies unsigned by signed bytes and adds 32-bit integers without saturation: weights go in as
// w + 128, which makes every sum too large by 128 * sum(x). Slots without a lane hold 128 and meet x = 0.
struct Int8 {
  using Panel = std::uint8_t;
  using Sum = std::int32_t;
  using Sums = __m512i;
  static constexpr int kBytes = 1;
  // Integers need no fixed order: one reduction a row.
  static constexpr std::int64_t kChunk = std::int64_t{1} << 40;

  static Sums zero() { return _mm512_setzero_si512(); }
  static __m512i load_panel(const Panel* from) { return _mm512_load_si512(from); }
  static void store_panel(Panel* to, __m512i w) { _mm512_store_si512(to, w); }
  static __m512i shift(__m512i w) { return _mm512_xor_si512(w, _mm512_set1_epi8(-128)); }
  static __m512i load_packed(const std::uint8_t* values, std::uint64_t mask, std::int64_t available) {
    const __m512i kept = _mm512_maskz_loadu_epi8(avx512::first_lanes(available), values);
    return shift(_mm512_maskz_expand_epi8(_cvtu64_mask64(mask), kept));
  }
  static __m512i load_dense(const std::uint8_t* values, std::int64_t available) {
    return shift(_mm512_maskz_loadu_epi8(avx512::first_lanes(available), values));
  }
  static void opaque(__m512i& w) { asm volatile("" : "+v"(w)); }
  static void opaque_sum(__m128i& sum) { asm volatile("" : "+v"(sum)); }
  // Not the intrinsic: with that GCC 12 moves a third of a tile's accumulators through memory.
  static Sums dot(Sums acc, __m512i w, __m512i x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x));
    return acc;
  }
};

}  // namespace

const GemmKernels& avx512_i8_gemm_kernels() {
  static const GemmKernels kKernels{
      Isa::kAvx512,      128, avx512::expand<Int8>, nullptr, avx512::tile<Int8>, avx512::stream<Int8>,
      avx512::peak<Int8>};
  return kKernels;
}

}  // namespace slidesparse
