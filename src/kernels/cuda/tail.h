#pragma once

#include <cstdint>

#include "slidesparse/core/dtype.h"

// What runs after a matrix product whose library cannot do it: D = float(acc) * x_scale * w_scale + bias in
// FP32, rounded once.
namespace slidesparse::cuda {

struct TailArgs {
  DType acc_dtype = DType::kI32;  // I32, F32 or BF16 (a second rounding: the plan says so)
  const void* acc = nullptr;      // [m, n], row stride ldacc
  std::int64_t ldacc = 0;
  std::int64_t m = 0;
  std::int64_t n = 0;
  const float* x_scale = nullptr;  // [m]; null: 1
  const float* w_scale = nullptr;  // [n]; null: 1
  const float* bias = nullptr;     // [n]; null: none
  DType out_dtype = DType::kBF16;  // BF16 or F32
  void* out = nullptr;             // [m, n], row stride ldout
  std::int64_t ldout = 0;
};

// Returns a cudaError_t.
int apply_tail(const TailArgs& args, void* stream);

}  // namespace slidesparse::cuda
