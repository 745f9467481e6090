#include <algorithm>

#include "kernels/cuda/attention_plan.cuh"
#include "kernels/cuda/attention_softmax.cuh"
#include "kernels/cuda/attention_tile.cuh"

// Attention of one query token a sequence. A block owns a part of the context of one sequence and the heads
// that share its keys: they are the rows of one product. Each of its warps takes every fourth group of 16
// keys through shared memory of its own, with no barrier until the end, where the warps' sums are joined.
// Parts are joined by a second kernel, in the order of the context.
namespace slidesparse::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kRows = 16;
constexpr int kWarpBytes = 24 * 1024;  // two blocks fit a multiprocessor of 228 KiB, one any
constexpr int kMostStages = 6;

template <typename Element, int kDim>
struct DecodeShape {
  using Tile = KvTile<Element, kDim>;
  static constexpr int kTileBytes = kKeyGroup * Tile::kRowBytes;  // of keys; as many of values
  static constexpr int kStages = std::min(kMostStages, kWarpBytes / (2 * kTileBytes));
  static constexpr int kStride = kDim + 8;  // floats of a row when warps are joined: no bank conflicts
  static constexpr int kJoinBytes = kWarps * kRows * (kStride + 2) * 4;
  static constexpr int kBytes = std::max(kJoinBytes, kWarps* kStages * 2 * kTileBytes);
};

// Keys of a part: what the context is, not what it may be, decides how many parts there are.
__device__ int part_keys(int context, int splits) {
  const int even = (context + splits - 1) / splits;
  return (even + kPartKeys - 1) / kPartKeys * kPartKeys;
}

// Operand a of all steps: row r is head r of the group, zero behind the last.
template <bool kCodes, int kDim>
__device__ void load_query(std::uint32_t (&q)[kDim / 16][4], const std::uint16_t* heads, int group,
                           int lane) {
  const int c = lane % 4;
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i % 2 * 8;
      const int element = 16 * step + (kCodes ? 4 * c + i / 2 * 2 : 2 * c + i / 2 * 8);
      q[step][i] = row < group ? *reinterpret_cast<const std::uint32_t*>(heads + row * kDim + element) : 0u;
    }
  }
}

template <typename Element, int kDim>
__global__ void __launch_bounds__(kThreads, 2) decode_kernel(const __grid_constant__ AttentionPlan p) {
  using Shape = DecodeShape<Element, kDim>;
  using Tile = typename Shape::Tile;
  extern __shared__ __align__(128) std::uint8_t shared[];
  let_successor_start();
  wait_for_predecessor();
  const PagedAttentionArgs& a = p.args;
  const auto unit = static_cast<std::int64_t>(blockIdx.x) / p.splits;
  const int split = static_cast<int>(blockIdx.x - unit * p.splits);
  const std::int64_t s = unit / a.kv_heads;
  const std::int64_t kv_head = unit - s * a.kv_heads;
  const AttentionSequence sequence = attention_sequence(a, s);
  if (sequence.tokens != 1) return;
  const std::int64_t part = part_keys(sequence.context, p.splits);
  if (split * part >= sequence.context) return;
  const int begin = static_cast<int>(split * part);
  const int end = sequence.context - begin < part ? sequence.context : static_cast<int>(begin + part);

  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int groups = (end - begin + kKeyGroup - 1) / kKeyGroup;
  const int count = (groups - warp + kWarps - 1) / kWarps;  // of this warp
  const std::uint32_t stages = shared_address(shared) + warp * Shape::kStages * 2 * Shape::kTileBytes;
  const auto* keys = static_cast<const std::uint8_t*>(a.cache.keys) + kv_head * Tile::kRowBytes;
  const auto* values = static_cast<const std::uint8_t*>(a.cache.values) + kv_head * Tile::kRowBytes;
  const std::int64_t row_bytes = a.kv_heads * Tile::kRowBytes;

  const auto load = [&](int i) {
    if (i < count) {
      const int position = begin + kKeyGroup * (warp + kWarps * i);
      const std::int64_t from = cache_row(p, sequence.pages, position) * row_bytes;
      const std::uint32_t to = stages + i % Shape::kStages * 2 * Shape::kTileBytes;
#pragma unroll
      for (int pass = 0; pass < kKeyGroup * Tile::kPieces / 32; ++pass) {
        const int row = (32 * pass + lane) / Tile::kPieces;
        const int piece = lane % Tile::kPieces;
        // What stands in the page behind the context is not for anybody.
        const bool there = position + row < end;
        const std::int64_t at = from + row * row_bytes + 16 * piece;
        copy_async(to + Tile::offset(row, piece), keys + at, there);
        copy_async(to + Shape::kTileBytes + Tile::offset(row, piece), values + at, there);
      }
    }
    close_copies();
  };
#pragma unroll
  for (int i = 0; i < Shape::kStages - 1; ++i) load(i);

  const std::int64_t first_head = kv_head * p.group;
  std::uint32_t q[kDim / 16][4];
  load_query<Tile::kCodes, kDim>(
      q, static_cast<const std::uint16_t*>(a.q) + sequence.first_token * a.ldq + first_head * kDim, p.group,
      lane);
  float out[1][kDim / 8][4] = {};
  SoftmaxRow rows[2];
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    wait_copies<Shape::kStages - 2>();
    __syncwarp();
    load(i + Shape::kStages - 1);
    const std::uint32_t tile = stages + i % Shape::kStages * 2 * Shape::kTileBytes;
    float scores[1][2][4] = {};
    Tile::template add_scores<1, 1>(scores, tile, lane, [&](int step, std::uint32_t(&to)[1][4]) {
#pragma unroll
      for (int e = 0; e < 4; ++e) to[0][e] = q[step][e];
    });
    const int behind = end - (begin + kKeyGroup * (warp + kWarps * i));  // keys from here on are not seen
    if (behind < kKeyGroup) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (8 * n + lane % 4 * 2 + e % 2 >= behind) scores[0][n][e] = -INFINITY;
        }
      }
    }
    float shrink[2];
    soften(scores[0], rows, p.scale, shrink);
    shrink_sums(out[0], shrink);
    std::uint32_t weights[1][4];
    weights_of(weights[0], scores[0][0], scores[0][1]);
    Tile::template add_values<1>(out, tile + Shape::kTileBytes, 0, lane, weights);
  }
  wait_copies<0>();
  __syncthreads();

  // The tiles' memory is free: every warp's sums [warp, row, kStride], largest products and weights' sums.
  float* const sums = reinterpret_cast<float*>(shared);
  float2* const stats = reinterpret_cast<float2*>(sums + kWarps * kRows * Shape::kStride);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * kRows + lane / 4 + 8 * half;
    const float sum = quad_sum(rows[half].sum);
    if (lane % 4 == 0) stats[row] = make_float2(rows[half].largest, sum);
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
      Tile::each_pair(n, half, lane, out[0][2 * n], out[0][2 * n + 1], [&](int element, float x, float y) {
        *reinterpret_cast<float2*>(sums + row * Shape::kStride + element) = make_float2(x, y);
      });
    }
  }
  __syncthreads();
  const bool alone = part >= sequence.context;
  for (int i = static_cast<int>(threadIdx.x); i < p.group * kDim; i += kThreads) {
    const int row = i / kDim;
    const int element = i % kDim;
    float largest = stats[row].x;
#pragma unroll
    for (int w = 1; w < kWarps; ++w) largest = fmaxf(largest, stats[w * kRows + row].x);
    float value = 0.0f;
    float weight = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float2 of_warp = stats[w * kRows + row];
      const float factor = power_of_two((of_warp.x - largest) * p.scale);
      value = fmaf(factor, sums[(w * kRows + row) * Shape::kStride + element], value);
      weight = fmaf(factor, of_warp.y, weight);
    }
    if (alone) {
      static_cast<std::uint16_t*>(a.out)[sequence.first_token * a.ldout + first_head * kDim + i] =
          bf16_bits(__fdiv_rn(value, weight) * p.value_scale);
      continue;
    }
    const std::int64_t at = (s * a.heads + first_head + row) * p.splits + split;
    p.parts[at * kDim + element] = value;
    if (element == 0) reinterpret_cast<float2*>(p.stats)[at] = make_float2(largest, weight);
  }
}

// A warp joins the parts of one head.
template <int kDim>
__global__ void __launch_bounds__(kThreads) join_kernel(const __grid_constant__ AttentionPlan p) {
  constexpr int kElements = kDim / 32;  // of a lane
  let_successor_start();
  wait_for_predecessor();
  const PagedAttentionArgs& a = p.args;
  const std::int64_t unit = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const std::int64_t s = unit / a.heads;
  if (s >= a.sequences) return;
  const AttentionSequence sequence = attention_sequence(a, s);
  if (sequence.tokens != 1) return;
  const int part = part_keys(sequence.context, p.splits);
  if (part >= sequence.context) return;  // written already
  const int count = (sequence.context + part - 1) / part;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto* stats = reinterpret_cast<const float2*>(p.stats) + unit * p.splits;
  const float* parts = p.parts + unit * p.splits * kDim + lane * kElements;

  float largest = -INFINITY;
  for (int i = lane; i < count; i += 32) largest = fmaxf(largest, stats[i].x);
#pragma unroll
  for (int width = 16; width > 0; width /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, width));
  float values[kElements] = {};
  float weight = 0.0f;
#pragma unroll 4
  for (int i = 0; i < count; ++i) {
    const float2 of_part = stats[i];
    const float factor = power_of_two((of_part.x - largest) * p.scale);
    weight = fmaf(factor, of_part.y, weight);
#pragma unroll
    for (int e = 0; e < kElements; e += 2) {
      const float2 pair = *reinterpret_cast<const float2*>(parts + static_cast<std::int64_t>(i) * kDim + e);
      values[e] = fmaf(factor, pair.x, values[e]);
      values[e + 1] = fmaf(factor, pair.y, values[e + 1]);
    }
  }
  const std::int64_t head = unit - s * a.heads;
  auto* const out = reinterpret_cast<std::uint32_t*>(
      static_cast<std::uint16_t*>(a.out) + sequence.first_token * a.ldout + head * kDim + lane * kElements);
#pragma unroll
  for (int e = 0; e < kElements; e += 2) {
    out[e / 2] = bf16_pair(__fdiv_rn(values[e], weight) * p.value_scale,
                           __fdiv_rn(values[e + 1], weight) * p.value_scale);
  }
}

template <typename Element, int kDim>
cudaError_t launch(const AttentionPlan& plan, cudaStream_t stream) {
  const PagedAttentionArgs& a = plan.args;
  if (a.sequences > 2147483647 / (a.heads * plan.splits)) return cudaErrorInvalidValue;
  constexpr auto kernel = decode_kernel<Element, kDim>;
  constexpr int kBytes = DecodeShape<Element, kDim>::kBytes;
  cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  status = launch_early<kernel>(dim3(static_cast<unsigned>(a.sequences * a.kv_heads * plan.splits)),
                                dim3(kThreads), kBytes, stream, plan);
  if (status != cudaSuccess || plan.splits == 1) return status;
  const std::int64_t blocks = (a.sequences * a.heads + kWarps - 1) / kWarps;
  return launch_early<join_kernel<kDim>>(dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream,
                                         plan);
}

}  // namespace

cudaError_t launch_decode(const AttentionPlan& plan, cudaStream_t stream) {
  const bool codes = plan.args.cache.dtype == DType::kF8E4M3;
  if (plan.args.head_dim == 64) {
    return codes ? launch<std::uint8_t, 64>(plan, stream) : launch<std::uint16_t, 64>(plan, stream);
  }
  return codes ? launch<std::uint8_t, 128>(plan, stream) : launch<std::uint16_t, 128>(plan, stream);
}

}  // namespace slidesparse::cuda
