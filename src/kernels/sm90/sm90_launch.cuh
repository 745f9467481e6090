#pragma once

#include <algorithm>

#include <cuda_runtime.h>

#include "kernels/sm90/sm90_product.cuh"
#include "kernels/sm90/sm90_tensor_map.h"

// A configuration as a Variant: the host's side of a launch.
namespace slidesparse::sm90 {

template <class C>
struct Launch {
  static int prepare() {
    return cudaFuncSetAttribute(product_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                C::kSharedBytes);
  }

  static int resources(Resources* result) {
    cudaFuncAttributes attributes{};
    const cudaError_t status = cudaFuncGetAttributes(&attributes, product_kernel<C>);
    *result = {attributes.numRegs, static_cast<int>(attributes.localSizeBytes), C::kSharedBytes};
    return status;
  }

  static int run(const Product& product, void* stream) {
    MatrixMap x;
    x.data = const_cast<void*>(product.x);
    x.columns = x.stride_bytes = product.schedule.lanes();
    x.rows = product.tokens;
    x.box_rows = C::kTokens / C::kCluster;
    MatrixMap out;
    out.data = product.out;
    out.element_bytes = 2;
    out.columns = product.channels;
    out.rows = product.tokens;
    out.stride_bytes = 2 * product.ldout;
    out.box_rows = C::kTokens;
    CUtensorMap x_map, out_map;
    if (const int status = make_tensor_map(x, &x_map); status != cudaSuccess) return status;
    if (const int status = make_tensor_map(out, &out_map); status != cudaSuccess) return status;

    ProductArgs args;
    args.product = product;
    args.blocks = static_cast<int>((product.channels + kBlockRows - 1) / kBlockRows);
    args.order.groups = (args.blocks + C::kCluster * C::kConsumers - 1) / (C::kCluster * C::kConsumers);
    args.order.token_tiles = static_cast<int>((product.tokens + C::kTokens - 1) / C::kTokens);
    args.order.panel = std::max(1, std::min(product.panel, args.order.token_tiles));
    const int clusters = std::min(args.order.tiles(), product.multiprocessors / C::kCluster);

    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = C::kCluster;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(clusters * C::kCluster));
    config.blockDim = dim3(C::kThreads);
    config.dynamicSmemBytes = C::kSharedBytes;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = &cluster;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, product_kernel<C>, x_map, out_map, args);
  }

  static Variant variant() {
    return {C::kType, C::kChannels, C::kTokens, C::kStages, C::kCluster, prepare, resources, run};
  }
};

}  // namespace slidesparse::sm90
