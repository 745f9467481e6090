#include "kernels/cuda/gather.h"

#include <cuda_runtime.h>

#include "kernels/cuda/early.cuh"

namespace slidesparse::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kDepth = 4;  // pieces of a thread, all on their way before the first is written

template <typename Piece>
struct Nan;
template <>
struct Nan<uint4> {
  static __device__ uint4 value() { return make_uint4(0x7fc07fc0u, 0x7fc07fc0u, 0x7fc07fc0u, 0x7fc07fc0u); }
};
template <>
struct Nan<std::uint16_t> {
  static __device__ std::uint16_t value() { return 0x7fc0; }
};

// A block copies kThreads * kDepth pieces of one row.
template <typename Piece>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const __grid_constant__ GatherArgs a, std::int64_t row_blocks) {
  constexpr std::int64_t kElements = sizeof(Piece) / 2;
  let_successor_start();
  wait_for_predecessor();
  const std::int64_t row = blockIdx.x / row_blocks;
  const std::int64_t first = (blockIdx.x - row * row_blocks) * kThreads * kDepth + threadIdx.x;
  const std::int64_t pieces = a.width / kElements;
  const std::int64_t id = a.ids[row];
  const bool there = id >= 0 && id < a.rows;
  const auto* from = reinterpret_cast<const Piece*>(static_cast<const std::uint16_t*>(a.table) +
                                                    (there ? id : 0) * a.ldtable);
  auto* to = reinterpret_cast<Piece*>(static_cast<std::uint16_t*>(a.out) + row * a.width);
  Piece values[kDepth];
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
    values[i] = Nan<Piece>::value();
    if (there && first + i * kThreads < pieces) values[i] = from[first + i * kThreads];
  }
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
    if (first + i * kThreads < pieces) to[first + i * kThreads] = values[i];
  }
}

template <typename Piece>
cudaError_t launch(const GatherArgs& args, cudaStream_t stream) {
  constexpr std::int64_t kBlockElements = kThreads * kDepth * (sizeof(Piece) / 2);
  const std::int64_t row_blocks = (args.width + kBlockElements - 1) / kBlockElements;
  if (args.m > 2147483647 / row_blocks) return cudaErrorInvalidValue;
  return launch_early<gather_kernel<Piece>>(dim3(static_cast<unsigned>(args.m * row_blocks)), dim3(kThreads),
                                            0, stream, args, row_blocks);
}

bool is_multiple(const void* pointer, std::uintptr_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

}  // namespace

int gather_rows(const GatherArgs& args, void* stream) {
  if (args.m < 0 || args.width < 0 || args.rows < 0) return cudaErrorInvalidValue;
  if (args.m == 0 || args.width == 0) return cudaSuccess;
  if (args.table == nullptr || args.ids == nullptr || args.out == nullptr) return cudaErrorInvalidValue;
  if (!is_multiple(args.table, 2) || !is_multiple(args.out, 2) || !is_multiple(args.ids, 4)) {
    return cudaErrorInvalidValue;
  }
  if (args.rows > 1 && args.ldtable < args.width) return cudaErrorInvalidValue;
  const auto handle = static_cast<cudaStream_t>(stream);
  const bool wide = args.width % 8 == 0 && args.ldtable % 8 == 0 && is_multiple(args.table, 16) &&
                    is_multiple(args.out, 16);
  return wide ? launch<uint4>(args, handle) : launch<std::uint16_t>(args, handle);
}

}  // namespace slidesparse::cuda
