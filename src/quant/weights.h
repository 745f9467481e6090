#pragma once

#include <cstdint>
#include <string>

#include "slidesparse/core/dtype.h"

namespace slidesparse {

// Weight quantisation, one scale per output channel, in the arithmetic of compressed-tensors (its minmax observer and quantize()): every
// intermediate is rounded to the source dtype, as PyTorch does (docs/format.md, "Numbers").
//   I8:      scale = absmax / 127.5, code = clamp(round_half_even(w / scale), -128, 127)
//   F8_E4M3: scale = absmax / 448,   code = round_to_nearest_even(clamp(w / scale, -448, 448))
// A row without non-zeros gets scale = eps of the source dtype and zero codes.
struct WeightQuantReport {
  std::int64_t zero_rows = 0;
};

// source: BF16, F16 or F32 [rows, k], row stride ld. target: I8 or F8_E4M3. codes [rows, k] contiguous, scales [rows] in the
// source dtype. Throws kInput with `what`, row (first_row + r) and column for NaN or infinite weights.
WeightQuantReport quantise_weight_rows(DType source, const void* w, std::int64_t rows, std::int64_t k, std::int64_t ld,
                                       DType target, void* codes, void* scales, std::int64_t first_row = 0,
                                       const std::string& what = "matrix");

// The inverse in FP32: out[r, c] = float(code) * float(scale[r]).
void dequantise_weight_rows(DType codes_dtype, const void* codes, DType scale_dtype, const void* scales, std::int64_t rows,
                            std::int64_t k, float* out);

// Refuses stored scales that are NaN, infinite, negative, or zero in a row whose codes are not all zero. scales [rows] of
// scale_dtype; codes [rows, values_per_row] (packed values do as well as dense codes). Throws kInput with `what`, row and value.
void validate_weight_scales(DType scale_dtype, const void* scales, DType codes_dtype, const void* codes, std::int64_t rows,
                            std::int64_t values_per_row, const std::string& what);

}  // namespace slidesparse
