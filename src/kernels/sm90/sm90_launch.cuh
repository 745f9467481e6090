#pragma once

#include <algorithm>

#include <cuda_runtime.h>

#include "kernels/sm90/sm90_product.cuh"
#include "kernels/sm90/sm90_split_k.cuh"
#include "kernels/sm90/sm90_tensor_map.h"

// A configuration as a Variant: the host's side of a launch.
namespace slidesparse::sm90 {

template <class C>
int activations_map(const Product& product, CUtensorMap* map) {
  MatrixMap x;
  x.data = const_cast<void*>(product.x);
  x.element_bytes = C::kElementBytes;
  x.columns = product.schedule.lanes();
  x.stride_bytes = x.columns * C::kElementBytes;
  x.rows = product.tokens;
  x.box_rows = C::kTokens / C::kCluster;
  return make_tensor_map(x, map);
}

template <class C>
ProductArgs make_args(const Product& product) {
  ProductArgs args;
  args.product = product;
  args.blocks = static_cast<int>((product.channels + kBlockRows - 1) / kBlockRows);
  args.order.groups = (args.blocks + C::kCluster * C::kConsumers - 1) / (C::kCluster * C::kConsumers);
  args.order.token_tiles = static_cast<int>((product.tokens + C::kTokens - 1) / C::kTokens);
  args.order.panel = std::max(1, std::min(product.panel, args.order.token_tiles));
  return args;
}

struct ClusterLaunch {
  ClusterLaunch(int blocks, int of_cluster, int threads, int shared_bytes, void* stream) {
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = static_cast<unsigned>(of_cluster);
    attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
    // May start while the kernel before it ends: it waits for it itself before it reads activations.
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = attributes;
    config.numAttrs = 2;
  }
  ClusterLaunch(const ClusterLaunch&) = delete;
  ClusterLaunch& operator=(const ClusterLaunch&) = delete;

  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config{};
};

template <auto kKernel, class C>
struct KernelFacts {
  static int prepare() {
    return cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes);
  }
  static int resources(Resources* result) {
    cudaFuncAttributes attributes{};
    const cudaError_t status = cudaFuncGetAttributes(&attributes, kKernel);
    *result = {attributes.numRegs, static_cast<int>(attributes.localSizeBytes), C::kSharedBytes};
    return status;
  }
};

template <class C>
struct Launch {
  static int run(const Product& product, void* stream) {
    MatrixMap out;
    out.data = product.out;
    out.element_bytes = 2;
    out.columns = product.channels;
    out.rows = product.tokens;
    out.stride_bytes = 2 * product.ldout;
    out.box_rows = C::kStoreTokens;
    CUtensorMap x_map, out_map;
    if (const int status = activations_map<C>(product, &x_map); status != cudaSuccess) return status;
    if (const int status = make_tensor_map(out, &out_map); status != cudaSuccess) return status;

    const ProductArgs args = make_args<C>(product);
    const int clusters = std::min(args.order.tiles(), product.multiprocessors / C::kCluster);

    ClusterLaunch launch(clusters * C::kCluster, C::kCluster, C::kThreads, C::kSharedBytes, stream);
    return cudaLaunchKernelEx(&launch.config, product_kernel<C>, x_map, out_map, args);
  }

  static Variant variant() {
    using Facts = KernelFacts<product_kernel<C>, C>;
    return {C::kType, C::kChannels,   C::kTokens,       C::kStages, C::kCluster, C::kDensePairs,
            0,        Facts::prepare, Facts::resources, run};
  }
};

// Few tokens: K split over the blocks of a cluster.
template <class C>
struct SplitLaunch {
  static int run(const Product& product, void* stream) {
    CUtensorMap x_map;
    if (const int status = activations_map<C>(product, &x_map); status != cudaSuccess) return status;
    const ProductArgs args = make_args<C>(product);
    ClusterLaunch launch(args.order.tiles() * product.splits, product.splits, kSplitThreads<C>,
                         C::kSharedBytes, stream);
    return cudaLaunchKernelEx(&launch.config, split_k_kernel<C>, x_map, args);
  }

  static Variant variant() {
    using Facts = KernelFacts<split_k_kernel<C>, C>;
    return {C::kType,       C::kChannels,    C::kTokens,     C::kStages,       C::kCluster,
            C::kDensePairs, C::kSplitBlocks, Facts::prepare, Facts::resources, run};
  }
};

}  // namespace slidesparse::sm90
