#pragma once

#include <cstddef>
#include <utility>

#include <cuda_runtime.h>

// Launches that overlap (programmatic dependent launch, Hopper and later): a kernel may become resident while
// the one before it in the stream ends, so that a chain of short kernels does not pay each start. Older cards
// launch as ever. The kernel
//   - calls let_successor_start() first: the next one may become resident as soon as all blocks of this one
//   are;
//   - calls wait_for_predecessor() before it reads or writes memory: until all of the kernel before it, and
//   so all
//     before that, has ended and is visible.
namespace slidesparse::cuda {

__device__ inline void let_successor_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Whether the code of a kernel that this card runs waits: not where it was made from PTX for an older one.
template <auto kKernel>
bool launches_early() {
  static const bool kDoes = [] {
    int device = 0, major = 0;
    cudaFuncAttributes attributes{};
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
           major >= 9 && cudaFuncGetAttributes(&attributes, kKernel) == cudaSuccess &&
           attributes.ptxVersion >= 90;
  }();
  return kDoes;
}

template <auto kKernel, typename... Args>
cudaError_t launch_early(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
                         Args&&... args) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = launches_early<kKernel>() ? 1 : 0;
  return cudaLaunchKernelEx(&config, kKernel, std::forward<Args>(args)...);
}

}  // namespace slidesparse::cuda
