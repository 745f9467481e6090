#include "kernels/cpu/gemm_avx512.h"

namespace slidesparse {
namespace {

// The BF16 of an E4M3 magnitude (7 bits): exact, since BF16 has more of everything.
constexpr std::uint16_t bf16_of_magnitude(unsigned bits) {
  if (bits == 0x7f) return 0x7fc0;  // NaN
  const unsigned exponent = bits >> 3;
  const unsigned mantissa = bits & 7;
  if (exponent != 0) return static_cast<std::uint16_t>((exponent + 120) << 7 | mantissa << 4);
  if (mantissa == 0) return 0;
  unsigned top = 0;  // subnormal: mantissa * 2^-9
  while (mantissa >> (top + 1) != 0) ++top;
  return static_cast<std::uint16_t>((top + 118) << 7 | (mantissa - (1u << top)) << (7 - top));
}

constexpr avx512::WideByteTable widening_table(int byte) {
  avx512::WideByteTable table;
  for (unsigned i = 0; i < 128; ++i)
    table.bytes[i] = static_cast<std::uint8_t>(bf16_of_magnitude(i) >> (8 * byte));
  return table;
}

// 64 slots as BF16 in two registers, in the order in which bytes are interleaved: tokens are widened by the
// same function, and a dot product does not mind.
struct Wide {
  __m512i low;
  __m512i high;
};

Wide widen_block(__m512i bytes) {
  static constexpr avx512::WideByteTable kLow = widening_table(0);
  static constexpr avx512::WideByteTable kHigh = widening_table(1);
  const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(kLow.bytes.data()), bytes,
                                               _mm512_load_si512(kLow.bytes.data() + 64));
  const __m512i magnitude = _mm512_permutex2var_epi8(_mm512_load_si512(kHigh.bytes.data()), bytes,
                                                     _mm512_load_si512(kHigh.bytes.data() + 64));
  constexpr int kAOrBAndC = 0xf8;
  const __m512i high = _mm512_ternarylogic_epi32(magnitude, bytes, _mm512_set1_epi8(-128), kAOrBAndC);
  return {_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)};
}

struct Fp8 {
  using Panel = std::uint16_t;
  using Sum = float;
  using Sums = __m512;
  static constexpr int kBytes = 1;
  static constexpr std::int64_t kChunk = kChunkBlocksBf16;

  static Sums zero() { return _mm512_setzero_ps(); }
  static Wide load_panel(const Panel* from) {
    return {_mm512_load_si512(from), _mm512_load_si512(from + 32)};
  }
  static void store_panel(Panel* to, Wide w) {
    _mm512_store_si512(to, w.low);
    _mm512_store_si512(to + 32, w.high);
  }
  static Wide load_packed(const std::uint8_t* values, std::uint64_t mask, std::int64_t available) {
    const __m512i kept = _mm512_maskz_loadu_epi8(avx512::first_lanes(available), values);
    return widen_block(_mm512_maskz_expand_epi8(_cvtu64_mask64(mask), kept));
  }
  static Wide load_dense(const std::uint8_t* values, std::int64_t available) {
    return widen_block(_mm512_maskz_loadu_epi8(avx512::first_lanes(available), values));
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

void widen(const std::uint8_t* x, std::int64_t blocks, std::uint16_t* out) {
  for (std::int64_t block = 0; block < blocks; ++block) {
    Fp8::store_panel(out + block * kBlockSlots, widen_block(_mm512_loadu_si512(x + block * kBlockSlots)));
  }
}

}  // namespace

const GemmKernels& avx512_f8_gemm_kernels() {
  static const GemmKernels kKernels{
      Isa::kAvx512, 0, avx512::expand<Fp8>, widen, avx512::tile<Fp8>, avx512::stream<Fp8>, avx512::peak<Fp8>};
  return kKernels;
}

}  // namespace slidesparse
