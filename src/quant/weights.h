#pragma once

#include <cstdint>
#include <string>

#include "slidesparse/core/dtype.h"

namespace slidesparse {

// Weight quantisation, one scale per output channel, in the arithmetic of compressed-tensors
// (calculate_qparams() of the rows' minima and maxima, then quantize() with its zero point of 0): every
// intermediate is rounded to the source dtype, as PyTorch does (docs/format.md, "Numbers").
//   I8:      scale = absmax / 127.5, q = w / scale + 0, code = round_half_even(clamp(q, -128, 127))
//   F8_E4M3: scale = absmax / 448,   q = w / scale + 0, code = round_to_nearest_even(clamp(q, -448, 448))
// Because the zero point is added, -0.0 becomes code +0; negative weights that underflow in FP8 keep code
// -0.0 (0x80). A row whose scale rounds to zero (no non-zeros, or all of them so small) gets scale = eps of
// the source dtype (2^-7 BF16, 2^-10 F16, 2^-23 F32), and its codes are computed with that.
struct WeightQuantReport {
  std::int64_t zero_rows = 0;  // rows whose scale is eps
};

// source: BF16, F16 or F32 [rows, k], row stride ld. target: I8 or F8_E4M3. codes [rows, k] contiguous,
// scales [rows] in the source dtype. Throws kInput with `what`, row (first_row + r) and column for NaN or
// infinite weights.
WeightQuantReport quantise_weight_rows(DType source, const void* w, std::int64_t rows, std::int64_t k,
                                       std::int64_t ld, DType target, void* codes, void* scales,
                                       std::int64_t first_row = 0, const std::string& what = "matrix");

// The inverse in FP32: out[r, c] = float(code) * float(scale[r]).
void dequantise_weight_rows(DType codes_dtype, const void* codes, DType scale_dtype, const void* scales,
                            std::int64_t rows, std::int64_t k, float* out);

// Refuses stored scales that are NaN, infinite, negative (-0 too), or zero in a row whose codes are not all
// zero. scales [rows] of scale_dtype; codes [rows, values_per_row] (packed values do as well as dense codes).
// Throws kInput with `what`, row and value.
void validate_weight_scales(DType scale_dtype, const void* scales, DType codes_dtype, const void* codes,
                            std::int64_t rows, std::int64_t values_per_row, const std::string& what);

}  // namespace slidesparse
