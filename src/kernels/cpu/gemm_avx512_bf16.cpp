#include "kernels/cpu/gemm_avx512_bf16.h"

namespace slidesparse {
namespace {

using avx512::Wide;

struct Bf16 : avx512::Bf16Panel {
  static constexpr int kBytes = 2;
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
};

}  // namespace

const GemmKernels& avx512_bf16_gemm_kernels() {
  static const GemmKernels kKernels{
      Isa::kAvx512,      0, avx512::expand<Bf16>, nullptr, avx512::tile<Bf16>, avx512::stream<Bf16>,
      avx512::peak<Bf16>};
  return kKernels;
}

}  // namespace slidesparse
