#pragma once

// Before any of CUTLASS's headers: its kernels then wait for their predecessor themselves, and let their
// successor start when their last tile's products are summed.
#define CUTLASS_ENABLE_GDC_FOR_SM90 1
#include "gemm/backends/cutlass/instance.cuh"

namespace slidesparse::cutlass_gemm {

// An instance whose blocks may start while the kernel before it in the stream ends, where multiprocessors are
// free: they set up their barriers and descriptors and wait before they touch memory. For tiles of few
// tokens, whose whole time is some microseconds.
template <DType Type, int Channels, int Tokens, int K, int Cluster, Schedule How>
struct EarlyInstance : Instance<Type, Channels, Tokens, K, Cluster, How> {
  using Base = Instance<Type, Channels, Tokens, K, Cluster, How>;
  using Kernel = typename Base::Kernel;
  static_assert(!Base::kStreamK, "its counters are set by a node that is no kernel");

  static int run(const Problem& problem, void* workspace, void* stream) {
    typename Kernel::Params params = Kernel::to_underlying_arguments(Base::arguments(problem), workspace);
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = Cluster;
    attributes[0].val.clusterDim.y = 1;
    attributes[0].val.clusterDim.z = 1;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = Kernel::get_grid_shape(params);
    config.blockDim = Kernel::get_block_shape();
    config.dynamicSmemBytes = Kernel::SharedStorageSize;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = attributes;
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
