#include "kernels/cpu/gemm_avx512_bf16.h"

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

using avx512::Wide;

// 64 slots as BF16 in the order in which bytes are interleaved: tokens are widened by the same function, and
// a dot product does not mind.
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

struct Fp8 : avx512::Bf16Panel {
  static constexpr int kBytes = 1;
  static Wide load_packed(const std::uint8_t* values, std::uint64_t mask, std::int64_t available) {
    const __m512i kept = _mm512_maskz_loadu_epi8(avx512::first_lanes(available), values);
    return widen_block(_mm512_maskz_expand_epi8(_cvtu64_mask64(mask), kept));
  }
  static Wide load_dense(const std::uint8_t* values, std::int64_t available) {
    return widen_block(_mm512_maskz_loadu_epi8(avx512::first_lanes(available), values));
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
