#pragma once

// Before any of CUTLASS's headers: its kernels then wait for their predecessor themselves. Not
// CUTLASS_ENABLE_GDC_FOR_SM90, which early.cuh uses: with that 4.2's stream-K scheduler does not compile.
#ifdef __CUDA_ARCH__
#define CUTLASS_GDC_ENABLED
#endif
#include "gemm/backends/cutlass/instance.cuh"

namespace slidesparse::cutlass_gemm {

// Sets counters to zero once the kernel before it, which may use the same memory, has ended; the kernel after
// it may be set up meanwhile.
static __global__ void clear_counters(std::uint32_t* counters, int count) {
  cutlass::arch::launch_dependent_grids();
  cutlass::arch::wait_on_dependent_grids();
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) counters[i] = 0;
}

// A stream-K instance between whose launch and its predecessor's end stands a kernel of one block instead of
// a memset, so that both can be set up early.
template <DType Type, int Channels, int Tokens, int K, int Cluster>
struct EarlyStreamK : Instance<Type, Channels, Tokens, K, Cluster, Schedule::kStreamK> {
  using Base = Instance<Type, Channels, Tokens, K, Cluster, Schedule::kStreamK>;
  using Kernel = typename Base::Kernel;

  // The counters of tiles that several blocks work on: behind their sums in the workspace.
  static std::uint32_t* counters(const typename Kernel::Params& params, void* workspace, std::int64_t bytes,
                                 int* count) {
    using Scheduler = typename Kernel::TileSchedulerParams;
    const Scheduler& scheduler = params.scheduler;
    const std::uint64_t tiles = scheduler.divmod_splits_.divisor > 1 ? scheduler.units_per_problem_
                                                                     : std::uint64_t{scheduler.sk_tiles_};
    const std::size_t sums = Scheduler::get_reduction_workspace_size(
        tiles, {Channels, Tokens, K}, cutlass::sizeof_bits<typename Base::Sum>::value);
    auto* first = static_cast<std::byte*>(scheduler.reduction_workspace_) + sums;
    *count = tiles == 0 ? 0
                        : static_cast<int>((static_cast<std::byte*>(workspace) + bytes - first) /
                                           static_cast<std::ptrdiff_t>(sizeof(std::uint32_t)));
    return reinterpret_cast<std::uint32_t*>(first);
  }

  static int run(const Problem& problem, void* workspace, void* stream) {
    const typename Base::Arguments args = Base::arguments(problem);
    typename Kernel::Params params = Kernel::to_underlying_arguments(args, workspace);
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = Cluster;
    attributes[1].val.clusterDim.y = 1;
    attributes[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = attributes;
    int count = 0;
    std::uint32_t* first =
        counters(params, workspace, static_cast<std::int64_t>(Kernel::get_workspace_size(args)), &count);
    if (count > 0) {
      config.gridDim = 1;
      config.blockDim = 256;
      config.numAttrs = 1;
      const cudaError_t status = cudaLaunchKernelEx(&config, clear_counters, first, count);
      if (status != cudaSuccess) return status;
    }
    config.gridDim = Kernel::get_grid_shape(params);
    config.blockDim = Kernel::get_block_shape();
    config.dynamicSmemBytes = Kernel::SharedStorageSize;
    config.numAttrs = 2;
    void* parameters[] = {&params};
    return cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(cutlass::device_kernel<Kernel>),
                               parameters);
  }

  static Variant variant() {
    Variant variant = Base::variant();
    variant.run = run;
    return variant;
  }
};

}  // namespace slidesparse::cutlass_gemm
