#pragma once

#include "kernels/cpu/gemm_avx512.h"

// What BF16 panels have in common, whatever the weights are stored as.
namespace slidesparse::avx512 {

// 64 BF16 slots in two registers.
struct Wide {
  __m512i low;
  __m512i high;
};

struct Bf16Panel {
  using Panel = std::uint16_t;
  using Sum = float;
  using Sums = __m512;
  static constexpr std::int64_t kChunk = kChunkBlocksBf16;

  static Sums zero() { return _mm512_setzero_ps(); }
  static Wide load_panel(const Panel* from) {
    return {_mm512_load_si512(from), _mm512_load_si512(from + 32)};
  }
  static void store_panel(Panel* to, Wide w) {
    _mm512_store_si512(to, w.low);
    _mm512_store_si512(to + 32, w.high);
  }
  static void opaque(Wide& w) { asm volatile("" : "+v"(w.low), "+v"(w.high)); }
  static void opaque_sum(__m128& sum) { asm volatile("" : "+v"(sum)); }
  // Not the intrinsic: with that GCC 12 moves a third of a tile's accumulators through memory.
  static Sums dot(Sums acc, Wide w, Wide x) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(w.low), "v"(x.low));
    asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(w.high), "v"(x.high));
    return acc;
  }
};

}  // namespace slidesparse::avx512
