#include <cuda_runtime.h>

#include "kernels/cuda/prompt_offsets.h"

namespace slidesparse::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void write_offsets(PromptOffsetsArgs a) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i > a.most) return;
  const std::int64_t begin = a.cu_seqlens[i < a.sequences ? i : a.sequences];
  a.offsets[i] = begin * a.ld;
  a.offsets_out[i] = begin * a.ldout;
  if (i < a.most) a.lengths[i] = i < a.sequences ? a.cu_seqlens[i + 1] - static_cast<std::int32_t>(begin) : 0;
}

}  // namespace

int prompt_offsets(const PromptOffsetsArgs& args, void* stream) {
  if (args.sequences < 1 || args.most < args.sequences || args.cu_seqlens == nullptr ||
      args.lengths == nullptr || args.offsets == nullptr || args.offsets_out == nullptr) {
    return cudaErrorInvalidValue;
  }
  const std::int64_t blocks = args.most / kThreads + 1;
  write_offsets<<<static_cast<unsigned>(blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(args);
  return cudaGetLastError();
}

}  // namespace slidesparse::cuda
