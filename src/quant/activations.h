#pragma once

#include <cstdint>

#include "slidesparse/core/dtype.h"

namespace slidesparse {

// Dynamic per-token quantisation, the definition that every kernel is compared with (docs/format.md,
// "Numbers"):
//   scale = absmax / 127 (I8) or absmax / 448 (F8_E4M3) in FP32; inverse = 1 / scale in FP32;
//   code = round_half_even(x * inverse) clamped to [-127, 127], or E4M3 of x * inverse, saturating.
// A zero token has scale 0 and zero codes. A token with NaN or infinity has scale NaN and zero codes (so its
// outputs are NaN, nobody else's). absmax so small that `inverse` would overflow FP32 counts as a zero token.
// x BF16 [m, k] with row stride ldx (elements); codes [m, k] contiguous; scales [m].
void quantise_tokens(DType target, const std::uint16_t* x, std::int64_t m, std::int64_t k, std::int64_t ldx,
                     void* codes, float* scales);

}  // namespace slidesparse
