#pragma once

#include <bit>

#include "kernels/cpu/gemm_finish.h"

// The loops of gemm_finish, which each instruction set compiles for itself: everything here is local to a
// file.
namespace slidesparse {
namespace {

// Values that pass between the steps, so that each is a loop of its own that the compiler makes vectors of.
constexpr std::int64_t kPiece = 64;

// float_to_bf16 without a branch.
inline std::uint16_t bf16_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t quiet = (bits >> 16) | 0x40u;
  return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

inline void finish_piece(const GemmFinish& finish, float* __restrict values, std::int64_t first,
                         std::int64_t count, void* out) {
  if (finish.w_scale != nullptr) {
    const float* __restrict scale = finish.w_scale + first;
    for (std::int64_t i = 0; i < count; ++i) values[i] = values[i] * finish.x_scale * scale[i];
  }
  if (finish.bias != nullptr) {
    const float* __restrict bias = finish.bias + first;
    for (std::int64_t i = 0; i < count; ++i) values[i] += bias[i];
  }
  if (finish.out_dtype == DType::kF32) {
    float* __restrict to = static_cast<float*>(out) + first;
    for (std::int64_t i = 0; i < count; ++i) to[i] = values[i];
  } else {
    auto* __restrict to = static_cast<std::uint16_t*>(out) + first;
    for (std::int64_t i = 0; i < count; ++i) to[i] = bf16_bits(values[i]);
  }
}

// Sums wrap around while they carry the offset; the difference is exact.
inline float to_float(const GemmFinish& finish, std::int32_t sum) {
  return static_cast<float>(
      static_cast<std::int32_t>(static_cast<std::uint32_t>(sum) - static_cast<std::uint32_t>(finish.offset)));
}
inline float to_float(const GemmFinish&, float sum) {
  return sum;
}

template <typename Sum>
void finish_all(const GemmFinish& finish, const Sum* sums, std::int64_t count, void* out) {
  alignas(64) float values[kPiece];
  for (std::int64_t first = 0; first < count; first += kPiece) {
    const std::int64_t here = count - first < kPiece ? count - first : kPiece;
    for (std::int64_t i = 0; i < here; ++i) values[i] = to_float(finish, sums[first + i]);
    finish_piece(finish, values, first, here, out);
  }
}

}  // namespace
}  // namespace slidesparse
