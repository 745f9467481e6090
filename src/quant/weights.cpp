#include "quant/weights.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "core/fail.h"
#include "core/numeric.h"
#include "core/text.h"
#include "quant/row_loops.h"

namespace slidesparse {
namespace {

// What the arithmetic needs to know about a floating-point dtype that weights and scales come in.
struct FloatFormat {
  std::size_t size;
  std::uint32_t infinity;  // magnitude bits: this is infinity, larger is NaN
  float eps;               // distance from 1 to the next value: what PyTorch's finfo calls eps
};

FloatFormat float_format(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return {2, 0x7f80u, 0x1p-7f};
    case DType::kF16:
      return {2, 0x7c00u, 0x1p-10f};
    case DType::kF32:
      return {4, 0x7f800000u, 0x1p-23f};
    default:
      break;
  }
  fail(ErrorKind::kInternal, "{} is no dtype of weights or scales", dtype_name(dtype));
}

float load_float(DType dtype, const void* data, std::int64_t index) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[index];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[index];
  return dtype == DType::kBF16 ? bf16_to_float(bits) : f16_to_float(bits);
}

// Stores `value` rounded to dtype and returns what was stored.
float store_float(DType dtype, void* data, std::int64_t index, float value) {
  if (dtype == DType::kF32) {
    static_cast<float*>(data)[index] = value;
  } else {
    static_cast<std::uint16_t*>(data)[index] =
        dtype == DType::kBF16 ? float_to_bf16(value) : float_to_f16(value);
  }
  return load_float(dtype, data, index);
}

float magnitude_to_float(DType dtype, std::uint32_t bits) {
  if (dtype == DType::kF32) return std::bit_cast<float>(bits);
  const auto half = static_cast<std::uint16_t>(bits);
  return dtype == DType::kBF16 ? bf16_to_float(half) : f16_to_float(half);
}

[[noreturn]] void refuse_not_finite(DType dtype, const void* row, std::int64_t k, std::int64_t row_number,
                                    const std::string& what) {
  std::int64_t column = 0;
  while (column < k && std::isfinite(load_float(dtype, row, column))) ++column;
  require(column < k, "{}: row {} was said to hold a value that is not finite", what, row_number);
  fail_input("{}: the weight at row {}, column {} is {}; weights must be finite", printable(what), row_number,
             column, std::isnan(load_float(dtype, row, column)) ? "NaN" : "infinite");
}

// Codes that stand for zero: 0, and -0.0 in FP8.
bool all_zero_codes(DType dtype, const std::uint8_t* codes, std::int64_t count) {
  const std::uint8_t magnitude = dtype == DType::kF8E4M3 ? 0x7f : 0xff;
  std::uint8_t any = 0;
  for (std::int64_t i = 0; i < count; ++i) any = static_cast<std::uint8_t>(any | (codes[i] & magnitude));
  return any == 0;
}

}  // namespace

WeightQuantReport quantise_weight_rows(DType source, const void* w, std::int64_t rows, std::int64_t k,
                                       std::int64_t ld, DType target, void* codes, void* scales,
                                       std::int64_t first_row, const std::string& what) {
  require(target == DType::kI8 || target == DType::kF8E4M3, "{}: cannot quantise to {}", what,
          dtype_name(target));
  const FloatFormat format = float_format(source);
  const QuantRowLoops& loops = quant_row_loops(active_isa(), source);
  const float divisor = target == DType::kI8 ? 127.5f : kE4M3Max;
  WeightQuantReport report;
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::byte* row = static_cast<const std::byte*>(w) + static_cast<std::size_t>(r * ld) * format.size;
    std::byte* row_codes = static_cast<std::byte*>(codes) + r * k;
    const std::uint32_t largest = loops.largest(row, k);
    if (largest >= format.infinity) refuse_not_finite(source, row, k, first_row + r, what);
    float scale = store_float(source, scales, r, magnitude_to_float(source, largest) / divisor);
    if (scale == 0.0f) {
      ++report.zero_rows;
      scale = store_float(source, scales, r, format.eps);
    }
    (target == DType::kI8 ? loops.to_int8 : loops.to_e4m3)(row, k, scale, row_codes);
  }
  return report;
}

void dequantise_weight_rows(DType codes_dtype, const void* codes, DType scale_dtype, const void* scales,
                            std::int64_t rows, std::int64_t k, float* out) {
  require(codes_dtype == DType::kI8 || codes_dtype == DType::kF8E4M3, "cannot dequantise {}",
          dtype_name(codes_dtype));
  for (std::int64_t r = 0; r < rows; ++r) {
    const float scale = load_float(scale_dtype, scales, r);
    const std::uint8_t* row = static_cast<const std::uint8_t*>(codes) + r * k;
    for (std::int64_t c = 0; c < k; ++c) {
      const float value = codes_dtype == DType::kI8 ? static_cast<float>(static_cast<std::int8_t>(row[c]))
                                                    : e4m3_to_float(row[c]);
      out[r * k + c] = value * scale;
    }
  }
}

void validate_weight_scales(DType scale_dtype, const void* scales, DType codes_dtype, const void* codes,
                            std::int64_t rows, std::int64_t values_per_row, const std::string& what) {
  float_format(scale_dtype);  // refuses other dtypes
  for (std::int64_t r = 0; r < rows; ++r) {
    const float scale = load_float(scale_dtype, scales, r);
    if (!std::isfinite(scale) || std::signbit(scale)) {
      fail_input("{}: the scale of row {} is {}; scales must be finite and not negative", printable(what), r,
                 scale);
    }
    if (scale != 0.0f) continue;
    const auto* row = static_cast<const std::uint8_t*>(codes) + r * values_per_row;
    if (!all_zero_codes(codes_dtype, row, values_per_row)) {
      fail_input("{}: the scale of row {} is zero but its codes are not; the row's weights are lost",
                 printable(what), r);
    }
  }
}

}  // namespace slidesparse
