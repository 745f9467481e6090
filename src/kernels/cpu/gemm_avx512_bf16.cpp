#include "kernels/cpu/gemm_avx512.h"

namespace slidesparse {
namespace {

// 64 BF16 slots in two registers.
struct Wide {
  __m512i low;
  __m512i high;
};

struct Bf16 {
  using Panel = std::uint16_t;
  using Sum = float;
  using Sums = __m512;
  static constexpr int kBytes = 2;
  static constexpr std::int64_t kChunk = kChunkBlocksBf16;

  static Sums zero() { return _mm512_setzero_ps(); }
  static Wide load_panel(const Panel* from) {
    return {_mm512_load_si512(from), _mm512_load_si512(from + 32)};
  }
  static void store_panel(Panel* to, Wide w) {
    _mm512_store_si512(to, w.low);
    _mm512_store_si512(to + 32, w.high);
  }
  static __m512i load(const std::uint8_t* values, std::int64_t available) {
    return _mm512_maskz_loadu_epi16(static_cast<__mmask32>(_cvtmask64_u64(avx512::first_lanes(available))),
                                    values);
  }
  static Wide load_packed(const std::uint8_t* values, std::uint64_t mask, std::int64_t available) {
    const auto low = static_cast<std::uint32_t>(mask);
    const auto high = static_cast<std::uint32_t>(mask >> 32);
    const std::int64_t in_low = __builtin_popcount(low);
    return {_mm512_maskz_expand_epi16(low, load(values, available)),
            _mm512_maskz_expand_epi16(high, load(values + 2 * in_low, available - in_low))};
  }
  static Wide load_dense(const std::uint8_t* values, std::int64_t available) {
    return {load(values, available), load(values + 64, available - 32)};
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

}  // namespace

const GemmKernels& avx512_bf16_gemm_kernels() {
  static const GemmKernels kKernels{
      Isa::kAvx512,      0, avx512::expand<Bf16>, nullptr, avx512::tile<Bf16>, avx512::stream<Bf16>,
      avx512::peak<Bf16>};
  return kKernels;
}

}  // namespace slidesparse
