#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include "kernels/sm90/sm90_device.cuh"
#include "kernels/sm90/sm90_tiles.cuh"
#include "kernels/sm90/sm90_wgmma.cuh"

// The product: D^T = W X^T, one block a multiprocessor, for as many tiles as there are.
//
//   producer (one thread)                        consumers (warpgroups of 64 channels each)
//     wait until stage s is free                   wait until stage s is full
//     X tile: its slice, to all of the cluster     step 0: A from shared memory to registers, wgmma
//     weights: one run of bytes a warpgroup          step 1 of stage s-1 done: hand stage s-1 back
//     stage s is full when the bytes are there     step 1: A to registers (step 0 multiplies), wgmma
//                                                    step 0 done
//   after the last stage: sums * scales + bias -> BF16, transposed into shared memory, stored by the engine
//   while the next tile begins.
//
// Shared memory: stages x {X tile [tokens][128 bytes], swizzled; weights of each warpgroup, 8 KiB}, the store
// buffer [tokens][64 channels] of each warpgroup, token scales, barriers.
//
// Registers at 128x256 (two consumers, 232 each, the producer 40): 128 sums, up to 16 for two steps' weights.
// Those have registers of their own for each kind and half of a stage: a register that an instruction in
// flight still reads would make the compiler wait for it.
namespace slidesparse::sm90 {

template <DType Type>
struct SumOf {
  using Sum = float;
};
template <>
struct SumOf<DType::kI8> {
  using Sum = std::int32_t;
};

// Channels x Tokens of a tile; `Cluster` blocks along the channels share their tokens' tile. DensePairs:
// whether schedules may have stages of two dense steps; without them there is room for a stage more. The
// output leaves in chunks of `StoreTokens`. SplitBlocks: where K is split, blocks that a multiprocessor
// holds; their output does not pass through a buffer.
template <DType T, int Channels, int Tokens, int Stages, int Cluster, bool DensePairs = true,
          int StoreTokens = Tokens, int SplitBlocks = 0>
struct Config {
  static constexpr DType kType = T;
  using Sum = typename SumOf<T>::Sum;
  static constexpr int kChannels = Channels, kTokens = Tokens, kStages = Stages, kCluster = Cluster;
  static constexpr bool kDensePairs = DensePairs;
  static constexpr int kStoreTokens = StoreTokens;
  static constexpr int kSplitBlocks = SplitBlocks;
  static constexpr int kConsumers = Channels / kBlockRows;
  static constexpr int kThreads = (kConsumers + 1) * kWarpgroup;
  // 64 Ki registers a multiprocessor, in eights; the producer needs few.
  static constexpr int kConsumerRegisters = kConsumers == 3 ? 160 : 232;
  static constexpr int kProducerRegisters = kConsumers == 3 ? 32 : 40;

  static constexpr int kElementBytes = T == DType::kBF16 ? 2 : 1;
  static constexpr bool kScaled = T != DType::kBF16;
  static constexpr int kSparseStepBytes = sparse_step_bytes(kElementBytes);
  static constexpr int kTileBytes = Tokens * kStageBytes;
  // Of a stage and warpgroup, at most.
  static constexpr int kWeightBytes = kDenseStepBytes + (DensePairs ? kDenseStepBytes : kSparseStepBytes);
  static constexpr int kStoreBytes = SplitBlocks > 0 ? 0 : StoreTokens* kBlockRows * 2;  // of a chunk
  static constexpr int kWeightsAt = Stages * kTileBytes;
  static constexpr int kStoreAt = (kWeightsAt + Stages * kConsumers * kWeightBytes + 1023) / 1024 * 1024;
  static constexpr int kScalesAt = kStoreAt + kConsumers * kStoreBytes;
  static constexpr int kBarriersAt = kScalesAt + kConsumers * Tokens * 4;
  static constexpr int kSharedBytes = kBarriersAt + 2 * Stages * 8;

  static_assert(Channels % kBlockRows == 0 && kConsumers >= 1 && kConsumers <= 3, "warpgroups");
  static_assert(Tokens % (8 * Cluster) == 0 && Tokens <= 256 && Tokens % 16 == 0, "tokens");
  static_assert(Tokens % StoreTokens == 0 && StoreTokens % 16 == 0, "chunks");
  static_assert(kSharedBytes <= 232448, "227 KiB of shared memory a block");
  static_assert(kTileBytes / Cluster % 1024 == 0, "slices begin where the swizzle does");
};

// What a launch passes.
struct ProductArgs {
  Product product;
  TileOrder order;
  int blocks = 0;  // of 64 rows
};

// A launch's schedule, what the configuration knows of it as a constant.
template <class C>
__device__ __forceinline__ Schedule schedule_of(const ProductArgs& args) {
  Schedule schedule = args.product.schedule;
  schedule.element_bytes = C::kElementBytes;
  return schedule;
}

// A stage's place in shared memory and the parity of its barriers.
template <int kStages>
struct Ring {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Bytes of a stage's weights of one warpgroup.
template <class C>
__device__ __forceinline__ int stage_bytes(const Schedule& schedule, int stage) {
  return stage < schedule.both                    ? 2 * C::kSparseStepBytes
         : stage < schedule.both + schedule.mixed ? C::kSparseStepBytes + kDenseStepBytes
                                                  : 2 * kDenseStepBytes;
}

// Stages [begin, end) of one tile: `row` is the first token of this block's slice, `weights` those of `here`
// warpgroups' blocks from stage `begin` on. `starts`: nothing has been loaded yet. Then all stages are free
// and weights fill them while the kernel before this one, which writes the activations, may still run.
template <class C>
__device__ __forceinline__ void produce_tile(const CUtensorMap* x_map, const Schedule& schedule, int begin,
                                             int end, const std::uint8_t* weights, int here, int row,
                                             std::uint32_t shared, std::uint32_t rank, bool starts,
                                             Ring<C::kStages>& ring) {
  constexpr bool kShared = C::kCluster > 1;
  constexpr auto kEverybody = static_cast<std::uint16_t>((1 << C::kCluster) - 1);
  const std::uint32_t full = shared + C::kBarriersAt, free = full + 8 * C::kStages;
  const std::int64_t block_bytes = schedule.block_bytes();
  const auto load_weights = [&](int stage, int place) {
    const int bytes = stage_bytes<C>(schedule, stage);
    barrier_expect(full + 8 * place, C::kTileBytes + here * bytes);
#pragma unroll
    for (int w = 0; w < C::kConsumers; ++w) {
      if (w >= here) continue;
      load_bytes(shared + C::kWeightsAt + (place * C::kConsumers + w) * C::kWeightBytes,
                 weights + w * block_bytes, bytes, full + 8 * place);
    }
    weights += bytes;
  };
  const int ahead = starts ? min(end, begin + C::kStages) : begin;
  for (int i = begin; i < ahead; ++i) load_weights(i, i - begin);
  if (starts) wait_for_predecessor();
#pragma unroll 1
  for (int i = begin; i < end; ++i) {
    if (i >= ahead) {
      barrier_wait(free + 8 * ring.stage, ring.parity);
      load_weights(i, ring.stage);
    }
    load_box<kShared>(shared + ring.stage * C::kTileBytes + rank * (C::kTileBytes / C::kCluster), x_map,
                      i * (kStageBytes / C::kElementBytes), row, full + 8 * ring.stage, kEverybody);
    ring.advance();
  }
}

template <class C>
__device__ __forceinline__ void produce(const CUtensorMap* x_map, const ProductArgs& args,
                                        std::uint32_t shared, std::uint32_t rank, int cluster, int clusters) {
  const Schedule schedule = schedule_of<C>(args);
  Ring<C::kStages> ring{0, 1};  // all stages are free
  for (int number = cluster; number < args.order.tiles(); number += clusters) {
    const Tile tile = tile_at(args.order, number);
    const int first = (tile.group * C::kCluster + static_cast<int>(rank)) * C::kConsumers;
    const int here = max(0, min(C::kConsumers, args.blocks - first));  // warpgroups that have rows
    produce_tile<C>(x_map, schedule, 0, schedule.stages(),
                    args.product.weights + first * schedule.block_bytes(), here,
                    tile.token_tile * C::kTokens + static_cast<int>(rank) * (C::kTokens / C::kCluster),
                    shared, rank, number == cluster, ring);
  }
}

// One step's weights of a thread.
struct SparseWeights {
  std::uint32_t a[4];
  std::uint32_t metadata;

  template <int kElementBytes>
  __device__ __forceinline__ void load(std::uint32_t from, int thread) {
    load_shared(a, from + thread * 16);
    metadata = load_shared_word(from + kValueBytes + metadata_word(thread, kElementBytes) * 4);
  }
};
struct DenseWeights {
  std::uint32_t a[8];

  template <int kElementBytes>
  __device__ __forceinline__ void load(std::uint32_t from, int thread) {
    load_shared(a, from + thread * 16);
    load_shared(a + 4, from + kValueBytes + thread * 16);
  }
};

// Descriptor of a tile of B: 128-byte swizzle, 1024 bytes from eight rows to the next eight; address in units
// of 16 bytes, to which lanes add.
__device__ __forceinline__ std::uint64_t tile_descriptor(std::uint32_t address) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62;
  constexpr std::uint64_t kEightRows = std::uint64_t{1024 / 16} << 32;
  return kSwizzle128 | kEightRows | std::uint64_t{1} << 16 | address >> 4;
}
constexpr int kStepUnits = kStepBytes / 16;  // of a descriptor's address, from step to step

template <class C>
struct Consumer {
  using Sums = typename C::Sum[C::kTokens / 2];
  using Instruction = Wgmma<C::kType, C::kTokens>;

  std::uint32_t shared;
  int warpgroup;
  int thread;  // of the warpgroup
  Ring<C::kStages> ring;

  // A warp's arrival, at every block whose producer writes into this one's stages.
  __device__ __forceinline__ void hand_back(int stage) const {
    const std::uint32_t barrier = shared + C::kBarriersAt + 8 * (C::kStages + stage);
    const auto lane = static_cast<std::uint32_t>(thread % 32);
    if constexpr (C::kCluster == 1) {
      if (lane == 0) barrier_arrive(barrier);
    } else {
      if (lane < C::kCluster) barrier_arrive_at(barrier, lane);
    }
  }

  __device__ __forceinline__ void wait_full() const {
    barrier_wait(shared + C::kBarriersAt + 8 * ring.stage, ring.parity);
  }

  // For a warpgroup without rows: the stages pass by.
  __device__ __forceinline__ void skip(int stages) {
#pragma unroll 1
    for (int i = 0; i < stages; ++i) {
      wait_full();
      hand_back(ring.stage);
      ring.advance();
    }
  }

  static __device__ __forceinline__ void multiply(Sums& sums, const SparseWeights& weights, std::uint64_t b,
                                                  int add) {
    Instruction::sparse(sums, weights.a, weights.metadata, b, add);
  }
  static __device__ __forceinline__ void multiply(Sums& sums, const DenseWeights& weights, std::uint64_t b,
                                                  int add) {
    Instruction::dense(sums, weights.a, b, add);
    Instruction::dense(sums, weights.a + 4, b + kStepUnits / 2, 1);
  }

  // `count` stages of one kind. `last` is the stage whose second step may be in flight, -1 before the tile's
  // first.
  template <class First, class Second>
  __device__ __forceinline__ void run(Sums& sums, int count, int& last) {
    constexpr bool kSparse = sizeof(First) == sizeof(SparseWeights);
    constexpr int kSecondAt = kSparse ? C::kSparseStepBytes : kDenseStepBytes;
    First first;
    Second second;
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      const std::uint32_t weights =
          shared + C::kWeightsAt + (ring.stage * C::kConsumers + warpgroup) * C::kWeightBytes;
      const std::uint64_t tile = tile_descriptor(shared + ring.stage * C::kTileBytes);
      wait_full();
      first.template load<C::kElementBytes>(weights, thread);
      wgmma_fence();
      multiply(sums, first, tile, last >= 0 ? 1 : 0);
      wgmma_commit();
      wgmma_wait<1>();
      if (last >= 0) hand_back(last);
      second.template load<C::kElementBytes>(weights + kSecondAt, thread);
      wgmma_fence();
      multiply(sums, second, tile + kStepUnits, 1);
      wgmma_commit();
      wgmma_wait<1>();
      last = ring.stage;
      ring.advance();
    }
  }
};

// What leaves: float(sum) * token scale * channel scale + bias, each rounded by itself, as the reference
// does.
template <typename Sum>
__device__ __forceinline__ float finish(Sum sum, float x_scale, float w_scale, float bias) {
  return __fadd_rn(__fmul_rn(__fmul_rn(static_cast<float>(sum), x_scale), w_scale), bias);
}

__device__ __forceinline__ std::uint32_t two_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

// Scales of a tile: those of this thread's two rows, and two tokens that it fetches for its warpgroup. BF16
// has none: 1 changes no bits.
struct Scales {
  float row[2];
  float bias[2];
  float token[2];

  template <class C>
  __device__ __forceinline__ void load(const Product& product, int block, int token_tile, int thread) {
    const int first = block * kBlockRows + fragment_row(thread, 0);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      row[i] = C::kScaled ? product.w_scale[first + 8 * i] : 1.0f;
      // x + -0 is x for every x.
      bias[i] = product.bias != nullptr ? product.bias[first + 8 * i] : -0.0f;
      const std::int64_t at = std::int64_t{token_tile} * C::kTokens + 2 * thread + i;
      token[i] = 1.0f;
      if constexpr (C::kScaled)
        token[i] = 2 * thread < C::kTokens && at < product.tokens ? product.x_scale[at] : 0.0f;
    }
  }
};

template <class C>
__device__ __forceinline__ void store_tile(const typename Consumer<C>::Sums& sums, const Scales& scales,
                                           const CUtensorMap* out_map, std::uint32_t shared, int warpgroup,
                                           int thread, int block, int token_tile) {
  const std::uint32_t buffer = shared + C::kStoreAt + warpgroup * C::kStoreBytes;
  const std::uint32_t tokens = shared + C::kScalesAt + warpgroup * C::kTokens * 4;
  if (2 * thread < C::kTokens) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(tokens + thread * 8), "f"(scales.token[0]),
                 "f"(scales.token[1])
                 : "memory");
  }
  const int lane = thread % 32;
  // Blocks of 8 channels x 8 tokens: lanes 0-7, 8-15 give rows of the two of eight tokens, 16-31 of the next.
  const int row = lane / 16 * 8 + lane % 8;
  const int piece = thread / 32 * 2 + lane / 8 % 2;
  const std::uint32_t place = row * 128 + ((piece ^ (row % 8)) * 16);
  const std::uint32_t from = tokens + lane % 4 * 8;
#pragma unroll
  for (int first = 0; first < C::kTokens; first += C::kStoreTokens) {
    if (thread == 0) stores_read();  // the chunk before this
    warpgroup_sync(warpgroup);
#pragma unroll
    for (int j = 0; j < C::kStoreTokens / 8; j += 2) {
      std::uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int eight = first / 8 + j + i;  // of tokens, in the tile
        float scale[2];
        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                     : "=f"(scale[0]), "=f"(scale[1])
                     : "r"(from + eight * 32));
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          const int at = 4 * eight + 2 * high;
          words[2 * i + high] = two_bf16(finish(sums[at], scale[0], scales.row[high], scales.bias[high]),
                                         finish(sums[at + 1], scale[1], scales.row[high], scales.bias[high]));
        }
      }
      store_transposed(buffer + place + j * 1024, words[0], words[1], words[2], words[3]);
    }
    fence_for_engine();
    warpgroup_sync(warpgroup);
    if (thread == 0) store_box(out_map, buffer, block * kBlockRows, token_tile * C::kTokens + first);
  }
}

template <class C>
__device__ __forceinline__ void consume(const CUtensorMap* out_map, const ProductArgs& args,
                                        std::uint32_t shared, int warpgroup, std::uint32_t rank, int cluster,
                                        int clusters) {
  const Schedule schedule = schedule_of<C>(args);
  Consumer<C> consumer{shared, warpgroup, static_cast<int>(threadIdx.x % kWarpgroup), {}};
  typename Consumer<C>::Sums sums;
  wait_for_predecessor();  // whose scales are read and whose output may be written
  for (int number = cluster; number < args.order.tiles(); number += clusters) {
    const Tile tile = tile_at(args.order, number);
    const int block = (tile.group * C::kCluster + static_cast<int>(rank)) * C::kConsumers + warpgroup;
    if (block >= args.blocks) {
      consumer.skip(schedule.stages());
      continue;
    }
    Scales scales;
    // Where registers are there they come while the tile is multiplied.
    constexpr bool kEarly = C::kConsumers == 2;
    if constexpr (kEarly) scales.template load<C>(args.product, block, tile.token_tile, consumer.thread);
    int last = -1;
    consumer.template run<SparseWeights, SparseWeights>(sums, schedule.both, last);
    consumer.template run<SparseWeights, DenseWeights>(sums, schedule.mixed, last);
    if constexpr (C::kDensePairs)
      consumer.template run<DenseWeights, DenseWeights>(sums, schedule.dense, last);
    wgmma_wait<0>();
    wgmma_results(sums);
    consumer.hand_back(last);
    if constexpr (!kEarly) scales.template load<C>(args.product, block, tile.token_tile, consumer.thread);
    store_tile<C>(sums, scales, out_map, shared, warpgroup, consumer.thread, block, tile.token_tile);
  }
  if (consumer.thread == 0) stores_done();
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    product_kernel(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap out_map,
                   const __grid_constant__ ProductArgs args) {
  extern __shared__ __align__(1024) std::uint8_t memory[];
  let_successor_start();
  const std::uint32_t shared = shared_address(memory);
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  const std::uint32_t rank = C::kCluster > 1 ? cluster_rank() : 0;
  const int cluster = static_cast<int>(blockIdx.x) / C::kCluster;
  const int clusters = static_cast<int>(gridDim.x) / C::kCluster;
  if (threadIdx.x == 0) {
    const std::uint32_t full = shared + C::kBarriersAt;
    for (int stage = 0; stage < C::kStages; ++stage) {
      barrier_init(full + 8 * stage, 1);
      // Every consumer warp of every block that reads what this block's producer writes.
      barrier_init(full + 8 * (C::kStages + stage), C::kConsumers * 4 * C::kCluster);
    }
    barrier_init_done();
  }
  if constexpr (C::kCluster > 1) {
    cluster_sync();
  } else {
    __syncthreads();
  }
  if (warpgroup == C::kConsumers) {
    give_registers<C::kProducerRegisters>();
    if (threadIdx.x == C::kConsumers * kWarpgroup) produce<C>(&x_map, args, shared, rank, cluster, clusters);
  } else {
    take_registers<C::kConsumerRegisters>();
    consume<C>(&out_map, args, shared, warpgroup, rank, cluster, clusters);
  }
  // Nobody leaves while others may write into its memory or arrive at its barriers.
  if constexpr (C::kCluster > 1) cluster_sync();
}

}  // namespace slidesparse::sm90
