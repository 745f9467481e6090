// The row kernels, compiled once for each instruction set: the including file defines SLIDESPARSE_TARGET (a
// target attribute or nothing) and SLIDESPARSE_ROWS (the name of the table). Loops are written so that the
// compiler vectorises them; sums run in kLanes interleaved partial sums, so that every instruction set adds
// in the same order.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/fast_exp.h"
#include "core/numeric.h"
#include "kernels/cpu/ops_rows.h"

namespace slidesparse::kernels {
namespace {

constexpr int kLanes = 32;

// Adds the partial sums pairwise: the same tree everywhere.
SLIDESPARSE_TARGET inline float reduce_lanes(float* lanes) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// The order in which a card can add without passing elements around (kernels/cuda/quantize_plan.cuh): the
// squares of 8 neighbours by a tree, 32 such vectors by a tree, and those chunks of 256 elements in kLanes
// interleaved partial sums.
constexpr int kChunk = 256;
SLIDESPARSE_TARGET inline float chunk_of_squares(const std::uint16_t* x) {
  float fours[kChunk / 2], twos[kChunk / 4], vectors[kChunk / 8];
  for (int v = 0; v < kChunk / 8; ++v) {
    for (int i = 0; i < 4; ++i) {
      const float low = bf16_to_float(x[8 * v + i]);
      const float high = bf16_to_float(x[8 * v + 4 + i]);
      fours[4 * v + i] = low * low + high * high;
    }
  }
  for (int v = 0; v < kChunk / 8; ++v) {
    for (int i = 0; i < 2; ++i) twos[2 * v + i] = fours[4 * v + i] + fours[4 * v + 2 + i];
  }
  for (int v = 0; v < kChunk / 8; ++v) vectors[v] = twos[2 * v] + twos[2 * v + 1];
  return reduce_lanes(vectors);
}

SLIDESPARSE_TARGET float sum_of_squares(const std::uint16_t* x, std::int64_t n) {
  float lanes[kLanes] = {};
  std::int64_t chunk = 0;
  for (; (chunk + 1) * kChunk <= n; ++chunk) lanes[chunk % kLanes] += chunk_of_squares(x + chunk * kChunk);
  if (chunk * kChunk < n) {
    std::uint16_t rest[kChunk] = {};
    std::memcpy(rest, x + chunk * kChunk, static_cast<std::size_t>(n - chunk * kChunk) * sizeof(rest[0]));
    lanes[chunk % kLanes] += chunk_of_squares(rest);
  }
  return reduce_lanes(lanes);
}

SLIDESPARSE_TARGET void rms_norm(const std::uint16_t* x, const std::uint16_t* weight, std::int64_t n,
                                 float eps, std::uint16_t* out) {
  const float inverse = 1.0f / std::sqrt(sum_of_squares(x, n) / static_cast<float>(n) + eps);
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = float_to_bf16(bf16_to_float(weight[i]) * round_to_bf16(bf16_to_float(x[i]) * inverse));
  }
}

SLIDESPARSE_TARGET void add(std::uint16_t* x, const std::uint16_t* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) x[i] = float_to_bf16(bf16_to_float(x[i]) + bf16_to_float(y[i]));
}

SLIDESPARSE_TARGET void silu_mul(const std::uint16_t* gate, const std::uint16_t* up, std::int64_t n,
                                 std::uint16_t* out) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float value = bf16_to_float(gate[i]);
    out[i] = float_to_bf16(value / (1.0f + fast_exp(-value)) * bf16_to_float(up[i]));
  }
}

SLIDESPARSE_TARGET void rotate(std::uint16_t* head, const float* cosine, const float* sine,
                               std::int64_t half) {
  for (std::int64_t i = 0; i < half; ++i) {
    const float a = bf16_to_float(head[i]);
    const float b = bf16_to_float(head[half + i]);
    head[i] = float_to_bf16(a * cosine[i] - b * sine[i]);
    head[half + i] = float_to_bf16(b * cosine[i] + a * sine[i]);
  }
}

// The largest magnitude's bits.
SLIDESPARSE_TARGET std::uint16_t largest_magnitude(const std::uint16_t* x, std::int64_t k) {
  std::uint16_t largest = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    const auto magnitude = static_cast<std::uint16_t>(x[i] & 0x7fffu);
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

// The scale of a token and, when it can be quantised, its inverse; otherwise inverse is 0 and all codes are
// 0.
struct TokenScale {
  float scale;
  float inverse;
};
SLIDESPARSE_TARGET inline TokenScale token_scale(const std::uint16_t* x, std::int64_t k, float divisor) {
  const std::uint16_t largest = largest_magnitude(x, k);
  if (largest >= 0x7f80u) return {std::numeric_limits<float>::quiet_NaN(), 0.0f};
  const float scale = bf16_to_float(largest) / divisor;
  const float inverse = 1.0f / scale;
  if (!(inverse <= std::numeric_limits<float>::max())) return {0.0f, 0.0f};
  return {scale, inverse};
}

SLIDESPARSE_TARGET float quantise_i8(const std::uint16_t* x, std::int64_t k, std::int8_t* codes) {
  const TokenScale token = token_scale(x, k, 127.0f);
  if (token.inverse == 0.0f) {
    std::memset(codes, 0, static_cast<std::size_t>(k));
    return token.scale;
  }
  // Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
  constexpr float kRound = 12582912.0f;
  for (std::int64_t i = 0; i < k; ++i) {
    float value = bf16_to_float(x[i]) * token.inverse;
    value = value < -127.0f ? -127.0f : value;
    value = value > 127.0f ? 127.0f : value;
    codes[i] = static_cast<std::int8_t>(std::bit_cast<std::int32_t>(value + kRound));
  }
  return token.scale;
}

SLIDESPARSE_TARGET float quantise_f8(const std::uint16_t* x, std::int64_t k, std::uint8_t* codes) {
  const TokenScale token = token_scale(x, k, kE4M3Max);
  if (token.inverse == 0.0f) {
    std::memset(codes, 0, static_cast<std::size_t>(k));
    return token.scale;
  }
  for (std::int64_t i = 0; i < k; ++i) {
    // float_to_e4m3 without branches: a value of a quantised token is finite.
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(bf16_to_float(x[i]) * token.inverse);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    const std::uint32_t rebased = magnitude - (120u << 23);
    const std::uint32_t normal = (rebased + 0x7ffffu + ((rebased >> 20) & 1u)) >> 20;
    const std::uint32_t small =
        std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 16384.0f) - 0x46800000u;
    std::uint32_t code = magnitude >= 0x3c800000u ? normal : small;
    code = magnitude >= 0x43e00000u ? 0x7eu : code;
    codes[i] = static_cast<std::uint8_t>(code | ((bits >> 24) & 0x80u));
  }
  return token.scale;
}

SLIDESPARSE_TARGET double log_sum_exp(const float* x, std::int64_t n) {
  float maxima[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) maxima[lane] = x[0];
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane)
      maxima[lane] = x[i + lane] > maxima[lane] ? x[i + lane] : maxima[lane];
  }
  for (; i < n; ++i) maxima[0] = x[i] > maxima[0] ? x[i] : maxima[0];
  float largest = maxima[0];
  for (int lane = 1; lane < kLanes; ++lane) largest = maxima[lane] > largest ? maxima[lane] : largest;
  // Partial sums of a block stay in FP32, blocks are added in FP64.
  constexpr std::int64_t kBlock = 4096;
  double total = 0;
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t end = begin + kBlock < n ? begin + kBlock : n;
    float lanes[kLanes] = {};
    for (i = begin; i + kLanes <= end; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += fast_exp(x[i + lane] - largest);
    }
    for (int lane = 0; i < end; ++i, ++lane) lanes[lane] += fast_exp(x[i] - largest);
    total += static_cast<double>(reduce_lanes(lanes));
  }
  return static_cast<double>(largest) + std::log(total);
}

}  // namespace

const RowKernels SLIDESPARSE_ROWS{rms_norm, add, silu_mul, rotate, quantise_i8, quantise_f8, log_sum_exp};

}  // namespace slidesparse::kernels
