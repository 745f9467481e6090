#pragma once

#include <cstdint>

#include <cuda_bf16.h>

// The scalar arithmetic of core/numeric.h, core/fast_exp.h and quant/activations.h on the card: the
// same operations in the same order, so the same bits. -fmad=false keeps the compiler from fusing them.
namespace slidesparse::cuda {

__device__ inline float low_float(std::uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ inline float high_float(std::uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}
__device__ inline float bf16_float(std::uint16_t bits) {
  return __uint_as_float(static_cast<std::uint32_t>(bits) << 16);
}

// Two floats to BF16, round to nearest even; NaN becomes the card's own (0x7fff).
__device__ inline std::uint32_t bf16_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(pair);
}
__device__ inline std::uint16_t bf16_bits(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

// fast_exp of core/fast_exp.h. NaN becomes a finite number: the caller's own NaN must survive
// elsewhere.
__device__ inline float row_exp(float x) {
  x = fminf(fmaxf(x, -87.0f), 88.0f);
  constexpr float kRound = 12582912.0f;
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * __uint_as_float((__float_as_uint(shifted) << 23) + 0x3f800000u);
}

__device__ inline float silu(float x) {
  return __fdiv_rn(x, 1.0f + row_exp(-x));
}

// Four E4M3 codes of finite values, the first in the lowest byte; saturating.
__device__ inline std::uint32_t e4m3_code(float value) {
  const std::uint32_t bits = __float_as_uint(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const std::uint32_t rebased = magnitude - (120u << 23);
  const std::uint32_t normal = (rebased + 0x7ffffu + ((rebased >> 20) & 1u)) >> 20;
  const std::uint32_t small = __float_as_uint(__uint_as_float(magnitude) + 16384.0f) - 0x46800000u;
  std::uint32_t code = magnitude >= 0x3c800000u ? normal : small;
  code = magnitude >= 0x43e00000u ? 0x7eu : code;
  return code | ((bits >> 24) & 0x80u);
}
__device__ inline std::uint32_t e4m3_codes(float a, float b, float c, float d) {
#if __CUDA_ARCH__ >= 890
  std::uint16_t low;
  std::uint16_t high;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(b), "f"(a));
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(d), "f"(c));
  return static_cast<std::uint32_t>(low) | static_cast<std::uint32_t>(high) << 16;
#else
  return e4m3_code(a) | e4m3_code(b) << 8 | e4m3_code(c) << 16 | e4m3_code(d) << 24;
#endif
}

// Four INT8 codes, round half to even. Adding 1.5 * 2^23 leaves the integer in the low byte. |value| exceeds
// 127 by rounding only (1e-5 at most), so there is nothing to clamp.
__device__ inline std::uint32_t int8_codes(float a, float b, float c, float d) {
  constexpr float kRound = 12582912.0f;
  const std::uint32_t low = __byte_perm(__float_as_uint(a + kRound), __float_as_uint(b + kRound), 0x0040);
  const std::uint32_t high = __byte_perm(__float_as_uint(c + kRound), __float_as_uint(d + kRound), 0x0040);
  return __byte_perm(low, high, 0x5410);
}

// What one token's codes are made with; `usable` is false for tokens whose codes are all zero.
struct TokenScale {
  float scale;
  float inverse;
  bool usable;
};
__device__ inline TokenScale token_scale(std::uint32_t largest_bits, float divisor) {
  if (largest_bits >= 0x7f80u) return {__uint_as_float(0x7fc00000u), 0.0f, false};
  const float scale = __fdiv_rn(__uint_as_float(largest_bits << 16), divisor);
  const float inverse = __fdiv_rn(1.0f, scale);
  if (!(inverse <= 3.402823466e+38f)) return {0.0f, 0.0f, false};
  return {scale, inverse, true};
}

}  // namespace slidesparse::cuda
