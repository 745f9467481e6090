#include "kernels/cuda/tail.h"

#include <algorithm>
#include <type_traits>

#include <cuda_runtime.h>

#include "kernels/cuda/numeric.cuh"

namespace slidesparse::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kColumns = 4;  // of a thread
constexpr int kRows = 8;     // of a block, one after the other

struct Plan {
  TailArgs args;
  std::int64_t column_blocks = 0;
  bool wide_acc = false;  // vector loads of accumulators fit
  bool wide_out = false;
};

template <typename Acc>
__device__ float to_float(Acc value) {
  if constexpr (std::is_same_v<Acc, std::uint16_t>) {
    return bf16_float(value);
  } else {
    return static_cast<float>(value);
  }
}

template <typename Acc>
struct alignas(sizeof(Acc) * kColumns) Four {
  Acc at[kColumns];
};

// A thread owns four columns, whose scales and bias it keeps, over kRows rows.
template <typename Acc, typename Out>
__global__ void __launch_bounds__(kThreads) tail_kernel(const __grid_constant__ Plan p) {
  const TailArgs& a = p.args;
  const std::int64_t row_block = blockIdx.x / p.column_blocks;
  const std::int64_t column =
      ((blockIdx.x - row_block * p.column_blocks) * kThreads + threadIdx.x) * kColumns;
  if (column >= a.n) return;
  const bool whole = column + kColumns <= a.n;
  const std::int64_t first = row_block * kRows;
  const Acc* acc = static_cast<const Acc*>(a.acc) + first * a.ldacc + column;
  Out* out = static_cast<Out*>(a.out) + first * a.ldout + column;
  const int rows = static_cast<int>(a.m - first < kRows ? a.m - first : kRows);

  Four<Acc> sums[kRows];
  if (whole && p.wide_acc) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r < rows) sums[r] = *reinterpret_cast<const Four<Acc>*>(acc + r * a.ldacc);
    }
  } else {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        if (r < rows && column + i < a.n) sums[r].at[i] = acc[r * a.ldacc + i];
      }
    }
  }
  float scale[kColumns];
  float bias[kColumns];
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    scale[i] = a.w_scale != nullptr && column + i < a.n ? a.w_scale[column + i] : 1.0f;
    bias[i] = a.bias != nullptr && column + i < a.n ? a.bias[column + i] : 0.0f;
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r >= rows) break;
    const float x_scale = a.x_scale != nullptr ? a.x_scale[first + r] : 1.0f;
    float values[kColumns];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      values[i] = to_float(sums[r].at[i]) * x_scale * scale[i];
      // Without a bias nothing is added: -0 + 0 would be +0.
      if (a.bias != nullptr) values[i] += bias[i];
    }
    Four<Out> result;
    if constexpr (std::is_same_v<Out, float>) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) result.at[i] = values[i];
    } else {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) result.at[i] = bf16_bits(values[i]);
    }
    if (whole && p.wide_out) {
      *reinterpret_cast<Four<Out>*>(out + r * a.ldout) = result;
    } else {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        if (column + i < a.n) out[r * a.ldout + i] = result.at[i];
      }
    }
  }
}

template <typename T>
bool is_wide(const void* pointer, std::int64_t stride) {
  return reinterpret_cast<std::uintptr_t>(pointer) % (kColumns * sizeof(T)) == 0 && stride % kColumns == 0;
}

template <typename Acc, typename Out>
cudaError_t launch(const TailArgs& args, cudaStream_t stream) {
  if (reinterpret_cast<std::uintptr_t>(args.acc) % sizeof(Acc) != 0 ||
      reinterpret_cast<std::uintptr_t>(args.out) % sizeof(Out) != 0) {
    return cudaErrorInvalidValue;
  }
  Plan plan;
  plan.args = args;
  plan.wide_acc = is_wide<Acc>(args.acc, args.ldacc);
  plan.wide_out = is_wide<Out>(args.out, args.ldout);
  plan.column_blocks = (args.n + kThreads * kColumns - 1) / (kThreads * kColumns);
  const std::int64_t row_blocks = (args.m + kRows - 1) / kRows;
  if (row_blocks > 2147483647 / plan.column_blocks) return cudaErrorInvalidValue;
  tail_kernel<Acc, Out>
      <<<static_cast<unsigned>(plan.column_blocks * row_blocks), kThreads, 0, stream>>>(plan);
  return cudaGetLastError();
}

template <typename Acc>
cudaError_t launch_out(const TailArgs& args, cudaStream_t stream) {
  if (args.out_dtype == DType::kBF16) return launch<Acc, std::uint16_t>(args, stream);
  if (args.out_dtype == DType::kF32) return launch<Acc, float>(args, stream);
  return cudaErrorInvalidValue;
}

}  // namespace

int apply_tail(const TailArgs& args, void* stream) {
  if (args.m < 0 || args.n < 0) return cudaErrorInvalidValue;
  if (args.m == 0 || args.n == 0) return cudaSuccess;
  if (args.acc == nullptr || args.out == nullptr) return cudaErrorInvalidValue;
  if (args.m > 1 && (args.ldacc < args.n || args.ldout < args.n)) return cudaErrorInvalidValue;
  const auto handle = static_cast<cudaStream_t>(stream);
  switch (args.acc_dtype) {
    case DType::kI32:
      return launch_out<std::int32_t>(args, handle);
    case DType::kF32:
      return launch_out<float>(args, handle);
    case DType::kBF16:
      return launch_out<std::uint16_t>(args, handle);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace slidesparse::cuda
