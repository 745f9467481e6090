#include <cuda_runtime.h>

#include "kernels/cuda/feed.h"

namespace slidesparse::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void feed(std::int32_t* ids, std::int64_t count, const std::int32_t* drawn, std::int64_t rows) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count || ids[i] >= 0) return;
  const std::int64_t row = -1 - std::int64_t{ids[i]};
  ids[i] = row < rows ? drawn[row] : -1;
}

}  // namespace

int feed_drawn(std::int32_t* ids, std::int64_t count, const std::int32_t* drawn, std::int64_t rows,
               void* stream) {
  if (count < 0 || rows < 0 || (count > 0 && ids == nullptr) || (rows > 0 && drawn == nullptr))
    return cudaErrorInvalidValue;
  if (count == 0) return cudaSuccess;
  const std::int64_t blocks = (count + kThreads - 1) / kThreads;
  feed<<<static_cast<unsigned>(blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(ids, count, drawn,
                                                                                          rows);
  return cudaGetLastError();
}

}  // namespace slidesparse::cuda
