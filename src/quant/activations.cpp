#include "quant/activations.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/fail.h"
#include "core/numeric.h"

namespace slidesparse {
namespace {

std::uint8_t int8_code(float value) {
  return static_cast<std::uint8_t>(
      static_cast<std::int8_t>(std::clamp(std::nearbyint(value), -127.0f, 127.0f)));
}

}  // namespace

void quantise_tokens(DType target, const std::uint16_t* x, std::int64_t m, std::int64_t k, std::int64_t ldx,
                     void* codes, float* scales) {
  require(target == DType::kI8 || target == DType::kF8E4M3, "cannot quantise activations to {}",
          dtype_name(target));
  const float divisor = target == DType::kI8 ? 127.0f : kE4M3Max;
  auto* out = static_cast<std::uint8_t*>(codes);
  for (std::int64_t t = 0; t < m; ++t) {
    const std::uint16_t* row = x + t * ldx;
    std::uint8_t* row_codes = out + t * k;
    std::uint16_t largest = 0;
    for (std::int64_t i = 0; i < k; ++i)
      largest = std::max(largest, static_cast<std::uint16_t>(row[i] & 0x7fffu));
    const float scale = bf16_to_float(largest) / divisor;
    const float inverse = 1.0f / scale;
    if (largest >= 0x7f80u || !std::isfinite(inverse)) {
      scales[t] = largest >= 0x7f80u ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
      std::memset(row_codes, 0, static_cast<std::size_t>(k));
      continue;
    }
    scales[t] = scale;
    for (std::int64_t i = 0; i < k; ++i) {
      const float value = bf16_to_float(row[i]) * inverse;
      row_codes[i] = target == DType::kI8 ? int8_code(value) : float_to_e4m3(value);
    }
  }
}

}  // namespace slidesparse
