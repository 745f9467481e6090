#include "kernels/cuda/fill.h"

#include <algorithm>
#include <type_traits>

#include <cuda_runtime.h>

#include "core/random.h"
#include "kernels/cuda/numeric.cuh"

namespace slidesparse::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMostBlocks = 65536;

template <DType kType>
__global__ void __launch_bounds__(kThreads) fill_kernel(void* to, std::int64_t count, std::uint64_t seed) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += step) {
    const auto counter = static_cast<std::uint64_t>(i);
    if constexpr (kType == DType::kBF16) {
      static_cast<std::uint16_t*>(to)[i] = bf16_bits(random_normal(seed, counter));
    } else if constexpr (kType == DType::kF32) {
      static_cast<float*>(to)[i] = random_normal(seed, counter);
    } else if constexpr (kType == DType::kF8E4M3) {
      static_cast<std::uint8_t*>(to)[i] =
          static_cast<std::uint8_t>(e4m3_code(random_normal(seed, counter) * 128.0f));
    } else if constexpr (kType == DType::kI32) {
      static_cast<std::int32_t*>(to)[i] =
          static_cast<std::int32_t>(random_bits(seed, counter) >> 43) - (1 << 20);
    } else {
      static_cast<std::uint8_t*>(to)[i] =
          static_cast<std::uint8_t>(random_bits(seed, counter / 8) >> (8 * (counter % 8)));
    }
  }
}

__global__ void nothing_kernel() {}

constexpr int kCopyDepth = 4;

__global__ void __launch_bounds__(kThreads) copy_kernel(uint4* to, const uint4* from, std::int64_t count) {
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * (kThreads * kCopyDepth) + threadIdx.x;
  uint4 pieces[kCopyDepth];
#pragma unroll
  for (int i = 0; i < kCopyDepth; ++i) {
    if (first + i * kThreads < count) pieces[i] = from[first + i * kThreads];
  }
#pragma unroll
  for (int i = 0; i < kCopyDepth; ++i) {
    if (first + i * kThreads < count) to[first + i * kThreads] = pieces[i];
  }
}

template <DType kType>
int launch(void* to, std::int64_t count, std::uint64_t seed, void* stream) {
  const std::int64_t blocks = std::min(kMostBlocks, (count + kThreads - 1) / kThreads);
  fill_kernel<kType>
      <<<static_cast<unsigned>(blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(to, count, seed);
  return cudaGetLastError();
}

}  // namespace

int copy_wide(void* to, const void* from, std::int64_t bytes, void* stream) {
  if (bytes == 0) return cudaSuccess;
  const auto together = reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from) |
                        static_cast<std::uintptr_t>(bytes);
  if (bytes < 0 || together % sizeof(uint4) != 0) return cudaErrorInvalidValue;
  const std::int64_t count = bytes / static_cast<std::int64_t>(sizeof(uint4));
  const std::int64_t blocks = (count + kThreads * kCopyDepth - 1) / (kThreads * kCopyDepth);
  copy_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<uint4*>(to), static_cast<const uint4*>(from), count);
  return cudaGetLastError();
}

int launch_nothing(void* stream) {
  nothing_kernel<<<1, 1, 0, static_cast<cudaStream_t>(stream)>>>();
  return cudaGetLastError();
}

int fill_random(DType dtype, void* to, std::int64_t count, std::uint64_t seed, void* stream) {
  if (count == 0) return cudaSuccess;
  if (count < 0 || to == nullptr) return cudaErrorInvalidValue;
  switch (dtype) {
    case DType::kBF16:
      return launch<DType::kBF16>(to, count, seed, stream);
    case DType::kF32:
      return launch<DType::kF32>(to, count, seed, stream);
    case DType::kF8E4M3:
      return launch<DType::kF8E4M3>(to, count, seed, stream);
    case DType::kI32:
      return launch<DType::kI32>(to, count, seed, stream);
    case DType::kI8:
    case DType::kU8:
      return launch<DType::kU8>(to, count, seed, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace slidesparse::cuda
