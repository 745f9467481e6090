#pragma once

#include <cmath>
#include <cstdint>

#include <cuda_runtime.h>

#include "kernels/cuda/numeric.cuh"

// Softmax over keys that come in blocks, on the sums that mma.m16n8k16 leaves: lane l has elements
// 2 (l % 4) and 2 (l % 4) + 1 of rows l / 4 (the first two) and l / 4 + 8 of each product.
namespace slidesparse::cuda {

// 2^x, to 2 ulp; minus infinity gives 0, NaN NaN.
__device__ inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Over the four threads of a quad, which share rows.
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// What softmax has seen of a row so far: the largest product of q and k, and the sum of the weights of the
// keys that this thread had.
struct SoftmaxRow {
  float largest = -INFINITY;
  float sum = 0.0f;
};

// Takes in the products of 8 kTiles more keys, of which a thread has two in each of two rows, and makes them
// weights. What was summed before must be multiplied by shrink[row]. `scale`, > 0, turns a product into the
// exponent of two.
template <int kTiles>
__device__ inline void soften(float (&scores)[kTiles][4], SoftmaxRow (&rows)[2], float scale,
                              float (&shrink)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = fmaxf(scores[0][2 * half], scores[0][2 * half + 1]);
#pragma unroll
    for (int n = 1; n < kTiles; ++n)
      largest = fmaxf(largest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
    SoftmaxRow& row = rows[half];
    const float next = fmaxf(row.largest, quad_max(largest));
    shrink[half] = power_of_two((row.largest - next) * scale);
    row.largest = next;
    float sum = row.sum * shrink[half];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = scores[n][2 * half + e];
        score = power_of_two(fmaf(score, scale, -next * scale));
        sum += score;
      }
    }
    row.sum = sum;
  }
}

// The weights of 16 keys as operand a.
__device__ inline void weights_of(std::uint32_t (&p)[4], const float (&first)[4], const float (&second)[4]) {
  p[0] = bf16_pair(first[0], first[1]);
  p[1] = bf16_pair(first[2], first[3]);
  p[2] = bf16_pair(second[0], second[1]);
  p[3] = bf16_pair(second[2], second[3]);
}

// Skipped by a warp none of whose rows has a new largest product.
template <int kTiles>
__device__ inline void shrink_sums(float (&out)[kTiles][4], const float (&shrink)[2]) {
  if (!__any_sync(0xffffffffu, shrink[0] != 1.0f || shrink[1] != 1.0f)) return;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) out[n][e] *= shrink[e / 2];
  }
}

}  // namespace slidesparse::cuda
