#pragma once

#include "kernels/sm90/sm90_product.cuh"

// Few tokens: what counts is that all multiprocessors read weights all the time, and there are fewer tiles of
// channels than multiprocessors. A cluster takes one tile and each of its blocks a part of K:
//
//   block 0   stages  0 ..  6   sums in its shared memory  |
//   block 1   stages  7 .. 13   "                          |  each block adds a share of the tokens, always
//   block 2   stages 14 .. 20   "                          |  in the order of the blocks, scales and writes
//   block 3   stages 21 .. 27   "                          |
//
// Nothing goes through global memory and the bits are the same every time. Two or three blocks fit on a
// multiprocessor: one fills its stages while another adds, and with enough of them all tiles are read at
// once, so that none is left over for the end.
namespace slidesparse::sm90 {

// Consumers, and one warp of a producer: registers are those of the launch.
template <class C>
constexpr int kSplitThreads = C::kConsumers* kWarpgroup + 32;

// Four neighbouring words of block `rank` of the cluster, at this block's address `at`.
__device__ __forceinline__ void load_cluster(std::uint32_t (&to)[4], std::uint32_t at, std::uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %4, %5;\n"
      "ld.shared::cluster.v4.b32 {%0, %1, %2, %3}, [there];\n}"
      : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
      : "r"(at), "r"(rank)
      : "memory");
}

template <typename Sum>
__device__ __forceinline__ Sum as_sum(std::uint32_t bits) {
  if constexpr (sizeof(Sum) == sizeof(bits) && Sum(0.5f) != Sum(0)) {
    return __uint_as_float(bits);
  } else {
    return static_cast<Sum>(bits);
  }
}
__device__ __forceinline__ std::uint32_t bits_of(float sum) {
  return __float_as_uint(sum);
}
__device__ __forceinline__ std::uint32_t bits_of(std::int32_t sum) {
  return static_cast<std::uint32_t>(sum);
}

// A share of a tile's tokens, eight at a time, by the warpgroup whose channels they are. Sums stand where the
// stages were, [eight tokens][thread] of four.
template <class C>
__device__ __forceinline__ void add_and_store(const Product& product, std::uint32_t sums, int thread,
                                              int block, int token_tile, int rank, int splits) {
  using Sum = typename C::Sum;
  constexpr int kEights = C::kTokens / 8;
  Scales scales;
  scales.template load<C>(product, block, token_tile, thread);
  const std::int64_t channel = std::int64_t{block} * kBlockRows + fragment_row(thread, 0);
  const bool wide = product.out_dtype == DType::kF32;
  for (int eight = rank; eight < kEights; eight += splits) {
    Sum total[4] = {};
    for (int part = 0; part < splits; ++part) {
      std::uint32_t words[4];
      load_cluster(words, sums + (eight * kWarpgroup + thread) * 16, static_cast<std::uint32_t>(part));
#pragma unroll
      for (int i = 0; i < 4; ++i) total[i] += as_sum<Sum>(words[i]);
    }
    const std::int64_t token = std::int64_t{token_tile} * C::kTokens + 8 * eight + thread % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (token + i >= product.tokens) continue;
      const float scale = C::kScaled ? product.x_scale[token + i] : 1.0f;
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        if (channel + 8 * high >= product.channels) continue;
        const float value = finish(total[2 * high + i], scale, scales.row[high], scales.bias[high]);
        const std::int64_t at = (token + i) * product.ldout + channel + 8 * high;
        if (wide) {
          static_cast<float*>(product.out)[at] = value;
        } else {
          static_cast<__nv_bfloat16*>(product.out)[at] = __float2bfloat16_rn(value);
        }
      }
    }
  }
}

template <class C>
__device__ __forceinline__ void consume_part(const ProductArgs& args, std::uint32_t shared, int warpgroup,
                                             int begin, int end, int block, int token_tile, int rank,
                                             int splits) {
  const Schedule schedule = schedule_of<C>(args);
  Consumer<C> consumer{shared, warpgroup, static_cast<int>(threadIdx.x % kWarpgroup), {}};
  const bool real = block < args.blocks;
  typename Consumer<C>::Sums sums;
  const std::uint32_t place = shared + warpgroup * (C::kTokens * kBlockRows * 4);
  if (real) {
    // How many of [begin, end) are in [from, to).
    const auto within = [&](int from, int to) { return max(0, min(end, to) - max(begin, from)); };
    int last = -1;
    const int mixed_at = schedule.both, dense_at = schedule.both + schedule.mixed;
    consumer.template run<SparseWeights, SparseWeights>(sums, within(0, mixed_at), last);
    consumer.template run<SparseWeights, DenseWeights>(sums, within(mixed_at, dense_at), last);
    consumer.template run<DenseWeights, DenseWeights>(sums, within(dense_at, schedule.stages()), last);
    wgmma_wait<0>();
    wgmma_results(sums);
  } else {
    consumer.skip(end - begin);
  }
  // Both warpgroups are done with the stages before sums go there.
  asm volatile("bar.sync 15, %0;" ::"n"(C::kConsumers * kWarpgroup) : "memory");
  if (real) {
#pragma unroll
    for (int eight = 0; eight < C::kTokens / 8; ++eight) {
      asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(
                       place + (eight * kWarpgroup + consumer.thread) * 16),
                   "r"(bits_of(sums[4 * eight])), "r"(bits_of(sums[4 * eight + 1])),
                   "r"(bits_of(sums[4 * eight + 2])), "r"(bits_of(sums[4 * eight + 3]))
                   : "memory");
    }
  }
  wait_for_predecessor();  // whose scales are read and whose output may be written
  cluster_sync();
  if (real) add_and_store<C>(args.product, place, consumer.thread, block, token_tile, rank, splits);
}

// grid: clusters of args.splits blocks, one a tile.
template <class C>
__global__ void __launch_bounds__(kSplitThreads<C>, C::kSplitBlocks)
    split_k_kernel(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ ProductArgs args) {
  static_assert(C::kCluster == 1, "nothing is multicast: blocks of a cluster read different lanes");
  static_assert(C::kConsumers * C::kTokens * kBlockRows * 4 <= C::kStoreAt, "sums fit where stages were");
  extern __shared__ __align__(1024) std::uint8_t memory[];
  let_successor_start();
  const std::uint32_t shared = shared_address(memory);
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  const int splits = args.product.splits;
  const int rank = static_cast<int>(cluster_rank());
  const Tile tile = tile_at(args.order, static_cast<int>(blockIdx.x) / splits);
  const int stages = args.product.schedule.stages();
  const int begin = stages * rank / splits, end = stages * (rank + 1) / splits;
  if (threadIdx.x == 0) {
    const std::uint32_t full = shared + C::kBarriersAt;
    for (int stage = 0; stage < C::kStages; ++stage) {
      barrier_init(full + 8 * stage, 1);
      barrier_init(full + 8 * (C::kStages + stage), C::kConsumers * 4);
    }
    barrier_init_done();
  }
  __syncthreads();
  if (warpgroup == C::kConsumers) {
    if (threadIdx.x == C::kConsumers * kWarpgroup) {
      const int first = tile.group * C::kConsumers;
      const Schedule schedule = schedule_of<C>(args);
      Ring<C::kStages> ring{0, 1};
      produce_tile<C>(
          &x_map, schedule, begin, end,
          args.product.weights + first * schedule.block_bytes() + step_at(schedule, 2 * begin).offset,
          min(C::kConsumers, args.blocks - first), tile.token_tile * C::kTokens, shared, 0, true, ring);
    }
    __syncwarp();
    cluster_sync();
  } else {
    consume_part<C>(args, shared, warpgroup, begin, end, tile.group * C::kConsumers + warpgroup,
                    tile.token_tile, rank, splits);
  }
  // Nobody leaves while others read its sums.
  cluster_sync();
}

}  // namespace slidesparse::sm90
