#include "quant/row_loops.h"

#include <algorithm>
#include <bit>

#include "core/fail.h"
#include "core/isa_targets.h"
#include "core/numeric.h"

namespace slidesparse {
namespace {

// Traits of a source dtype: storage, magnitude bits, conversion, and one rounding of a finite float to the
// dtype. The roundings have no branches, so that loops over them become vector code; the sign of a zero may
// get lost in them, which does not matter because the zero point (+0) is added to the result.
struct Bf16Source {
  using Bits = std::uint16_t;
  static constexpr std::uint32_t kMagnitude = 0x7fff;
  static SLIDESPARSE_INLINE float to_float(Bits bits) { return bf16_to_float(bits); }
  static SLIDESPARSE_INLINE float rounded(float value) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
    return std::bit_cast<float>((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
  }
};

struct F16Source {
  using Bits = std::uint16_t;
  static constexpr std::uint32_t kMagnitude = 0x7fff;
  static SLIDESPARSE_INLINE float to_float(Bits bits) {
    // The exponent moves up by 112; subnormals come out right because the multiplication is exact.
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    const float magnitude = std::bit_cast<float>(static_cast<std::uint32_t>(bits & 0x7fffu) << 13) * 0x1p112f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
  }
  static SLIDESPARSE_INLINE float rounded(float value) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
    // Quotients stay far below 65504 or are clamped to 448 afterwards: overflow needs no care.
    const float normal = std::bit_cast<float>((bits + 0xfffu + ((bits >> 13) & 1u)) & 0xffffe000u);
    const float subnormal = (value + 0.75f) - 0.75f;  // one ulp of 0.75 is 2^-24, the step of F16 subnormals
    return (bits & 0x7fffffffu) >= 0x38800000u ? normal : subnormal;
  }
};

struct F32Source {
  using Bits = std::uint32_t;
  static constexpr std::uint32_t kMagnitude = 0x7fffffff;
  static SLIDESPARSE_INLINE float to_float(Bits bits) { return std::bit_cast<float>(bits); }
  static SLIDESPARSE_INLINE float rounded(float value) { return value; }
};

template <typename Source>
SLIDESPARSE_INLINE std::uint32_t largest_of(const void* row, std::int64_t k) {
  const auto* w = static_cast<const typename Source::Bits*>(row);
  typename Source::Bits most = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    most = std::max(most, static_cast<typename Source::Bits>(w[i] & Source::kMagnitude));
  }
  return most;
}

template <typename Source>
SLIDESPARSE_INLINE void to_int8_of(const void* row, std::int64_t k, float scale, void* codes) {
  const auto* w = static_cast<const typename Source::Bits*>(row);
  auto* out = static_cast<std::uint8_t*>(codes);
  for (std::int64_t i = 0; i < k; ++i) {
    float q = Source::rounded(Source::to_float(w[i]) / scale) + 0.0f;
    q = q < -128.0f ? -128.0f : q;
    q = q > 127.0f ? 127.0f : q;
    // 1.5 * 2^23 has an ulp of one: adding it rounds half to even and leaves the integer in the low bits.
    out[i] = static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(q + 12582912.0f));
  }
}

template <typename Source>
SLIDESPARSE_INLINE void to_e4m3_of(const void* row, std::int64_t k, float scale, void* codes) {
  constexpr std::uint32_t kMost = std::bit_cast<std::uint32_t>(kE4M3Max);
  const auto* w = static_cast<const typename Source::Bits*>(row);
  auto* out = static_cast<std::uint8_t*>(codes);
  for (std::int64_t i = 0; i < k; ++i) {
    const float q = Source::rounded(Source::to_float(w[i]) / scale) + 0.0f;
    // float_to_e4m3 without branches; see there. The clamp is on the bits, because the compiler follows a
    // clamped constant through all that comes after and leaves a scalar loop with branches.
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(q);
    const std::uint32_t magnitude = std::min(bits & 0x7fffffffu, kMost);
    const std::uint32_t normal = (magnitude - (120u << 23) + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20;
    const std::uint32_t subnormal =
        std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 16384.0f) - 0x46800000u;
    const std::uint32_t is_normal = 0u - ((0x3c7fffffu - magnitude) >> 31);  // a mask: no branch either
    out[i] =
        static_cast<std::uint8_t>(((bits >> 24) & 0x80u) | (normal & is_normal) | (subnormal & ~is_normal));
  }
}

// One instance of each loop under the compile options of one instruction set.
#define SLIDESPARSE_LOOPS(Name, TARGET)                                                     \
  template <typename Source>                                                                \
  struct Name {                                                                             \
    TARGET static std::uint32_t largest(const void* row, std::int64_t k) {                  \
      return largest_of<Source>(row, k);                                                    \
    }                                                                                       \
    TARGET static void to_int8(const void* row, std::int64_t k, float scale, void* codes) { \
      to_int8_of<Source>(row, k, scale, codes);                                             \
    }                                                                                       \
    TARGET static void to_e4m3(const void* row, std::int64_t k, float scale, void* codes) { \
      to_e4m3_of<Source>(row, k, scale, codes);                                             \
    }                                                                                       \
    static constexpr QuantRowLoops kTable{largest, to_int8, to_e4m3};                       \
  };

SLIDESPARSE_LOOPS(PortableLoops, )
SLIDESPARSE_LOOPS(Avx2Loops, SLIDESPARSE_AVX2)
SLIDESPARSE_LOOPS(Avx512Loops, SLIDESPARSE_AVX512)

template <typename Source>
const QuantRowLoops& loops_of(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return Avx512Loops<Source>::kTable;
    case Isa::kAvx2:
      return Avx2Loops<Source>::kTable;
    case Isa::kPortable:
      break;
  }
  return PortableLoops<Source>::kTable;
}

}  // namespace

const QuantRowLoops& quant_row_loops(Isa isa, DType source) {
  if (source == DType::kBF16) return loops_of<Bf16Source>(isa);
  if (source == DType::kF16) return loops_of<F16Source>(isa);
  require(source == DType::kF32, "quantisation from {} is not defined", dtype_name(source));
  return loops_of<F32Source>(isa);
}

}  // namespace slidesparse
