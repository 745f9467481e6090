#pragma once

#include <cstdint>

#include "core/cpu.h"
#include "slidesparse/core/dtype.h"

namespace slidesparse {

// What follows the sums of one token: out = float(sum) * x_scale * w_scale + bias in FP32, in this order,
// each step rounded, then one rounding to `out_dtype` (BF16 or F32).
struct GemmFinish {
  const float* w_scale = nullptr;  // [count]; null: no scales at all (BF16 inputs)
  const float* bias = nullptr;     // [count] or null
  float x_scale = 1.0f;
  std::int32_t offset = 0;  // subtracted from integer sums first
  DType out_dtype = DType::kBF16;
};

// sums [count]; out [count] of out_dtype. The same bits with every instruction set.
void gemm_finish(Isa isa, const GemmFinish& finish, const std::int32_t* sums, std::int64_t count, void* out);
void gemm_finish(Isa isa, const GemmFinish& finish, const float* sums, std::int64_t count, void* out);

void avx2_gemm_finish(const GemmFinish& finish, const std::int32_t* sums, std::int64_t count, void* out);
void avx2_gemm_finish(const GemmFinish& finish, const float* sums, std::int64_t count, void* out);
void avx512_gemm_finish(const GemmFinish& finish, const std::int32_t* sums, std::int64_t count, void* out);
void avx512_gemm_finish(const GemmFinish& finish, const float* sums, std::int64_t count, void* out);

}  // namespace slidesparse
