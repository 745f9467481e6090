#pragma once

#include <cstdint>

#include "core/cpu.h"

// Row kernels between the linears: raw pointers, one row a call, BF16 as uint16_t bits. All instruction sets
// give the same bits: they are compiled from one body (ops_rows_body.h) with fixed summation order and
// without fused multiply-add.
namespace slidesparse::kernels {

struct RowKernels {
  // out[i] = bf16(weight[i] * bf16(x[i] / rms(x))), rms = sqrt(mean(x^2) + eps). out may be x.
  void (*rms_norm)(const std::uint16_t* x, const std::uint16_t* weight, std::int64_t n, float eps,
                   std::uint16_t* out);
  // x[i] = bf16(x[i] + y[i]).
  void (*add)(std::uint16_t* x, const std::uint16_t* y, std::int64_t n);
  // out[i] = bf16(silu(gate[i]) * up[i]); silu to 2e-7 relative.
  void (*silu_mul)(const std::uint16_t* gate, const std::uint16_t* up, std::int64_t n, std::uint16_t* out);
  // head[i], head[half + i] rotated by the angle of pair i; cosine and sine [half].
  void (*rotate)(std::uint16_t* head, const float* cosine, const float* sine, std::int64_t half);
  // Per-token quantisation exactly as quant/activations.h defines it; returns the scale.
  float (*quantise_i8)(const std::uint16_t* x, std::int64_t k, std::int8_t* codes);
  float (*quantise_f8)(const std::uint16_t* x, std::int64_t k, std::uint8_t* codes);
  // log(sum_i exp(x[i])), n >= 1, to about 1e-6 absolute; NaN when any x is NaN.
  double (*log_sum_exp)(const float* x, std::int64_t n);
};

const RowKernels& row_kernels(Isa isa);
inline const RowKernels& row_kernels() {
  return row_kernels(active_isa());
}

extern const RowKernels kPortableRows;
extern const RowKernels kAvx2Rows;
extern const RowKernels kAvx512Rows;

}  // namespace slidesparse::kernels
