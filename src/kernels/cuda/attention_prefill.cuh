#pragma once

#include "kernels/cuda/attention_plan.cuh"
#include "kernels/cuda/attention_softmax.cuh"
#include "kernels/cuda/attention_tile.cuh"

// Attention of sequences with at least two query tokens. A block owns up to 64 kAtoms queries of one head of
// one sequence, each of its four warps 16 kAtoms of them; tiles of 64 keys and values go through shared
// memory one ahead of the products.
namespace slidesparse::cuda {

constexpr int kPrefillWarps = 4;
constexpr int kPrefillThreads = 32 * kPrefillWarps;
constexpr int kPrefillKeys = 64;

template <typename Element, int kDim, int kAtoms>
struct PrefillShape {
  using Tile = KvTile<Element, kDim>;
  using QueryTile = KvTile<std::uint16_t, kDim>;
  static constexpr int kQueries = kPrefillWarps * 16 * kAtoms;
  static constexpr int kQueryBytes = kQueries * QueryTile::kRowBytes;
  static constexpr int kTileBytes = kPrefillKeys * Tile::kRowBytes;  // of keys; as many of values
  static constexpr int kBytes = kQueryBytes + 2 * 2 * kTileBytes;
  // Keys that a warp takes at a time: as many as its registers hold products of.
  static constexpr int kStepKeys = kDim == 128 && kAtoms == 2 ? 32 : 64;
};

// Queries into shared memory, zeros behind `count`; in the order of elements that codes ask for.
template <bool kCodes, int kDim, int kQueries>
__device__ void load_queries(std::uint8_t* tile, const std::uint16_t* from, std::int64_t ld, int count) {
  using QueryTile = KvTile<std::uint16_t, kDim>;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < kQueries * QueryTile::kPieces; i += kPrefillThreads) {
    const int row = i / QueryTile::kPieces;
    const int piece = i % QueryTile::kPieces;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (row < count) v = reinterpret_cast<const uint4*>(from + row * ld)[piece];
    if constexpr (!kCodes) {
      *reinterpret_cast<uint4*>(tile + QueryTile::offset(row, piece)) = v;
    } else {
      const int even = piece / 2 * 2;
      const int at = piece % 2 * 8;
      *reinterpret_cast<uint2*>(tile + QueryTile::offset(row, even) + at) = make_uint2(v.x, v.z);
      *reinterpret_cast<uint2*>(tile + QueryTile::offset(row, even + 1) + at) = make_uint2(v.y, v.w);
    }
  }
}

// Products of keys behind the query's own position count for nothing. `ahead`: the first row's position less
// the first key's.
template <int kTiles>
__device__ void hide_future(float (&scores)[kTiles][4], int ahead, int lane) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int key = 8 * n + lane % 4 * 2 + e % 2;
      if (key > ahead + lane / 4 + e / 2 * 8) scores[n][e] = -INFINITY;
    }
  }
}

template <typename Element, int kDim, int kAtoms>
__global__ void __launch_bounds__(kPrefillThreads, 2)
    prefill_kernel(const __grid_constant__ AttentionPlan p, int tiles) {
  using Shape = PrefillShape<Element, kDim, kAtoms>;
  using Tile = typename Shape::Tile;
  using QueryTile = typename Shape::QueryTile;
  extern __shared__ __align__(128) std::uint8_t shared[];
  const PagedAttentionArgs& a = p.args;
  // The last queries see most keys and go first; heads that share keys run side by side.
  const std::int64_t unit = blockIdx.x / a.heads;
  const std::int64_t head = blockIdx.x - unit * a.heads;
  const std::int64_t turn = unit / a.sequences;
  const AttentionSequence sequence = attention_sequence(a, unit - turn * a.sequences);
  const std::int64_t first = (tiles - 1 - turn) * Shape::kQueries;
  if (sequence.tokens < 2 || first >= sequence.tokens) return;
  const int queries =
      static_cast<int>(sequence.tokens - first < Shape::kQueries ? sequence.tokens - first : Shape::kQueries);
  const int position = sequence.context - sequence.tokens + static_cast<int>(first);  // of the first query
  const int keys = position + queries;  // that the last query sees
  const int key_tiles = (keys + kPrefillKeys - 1) / kPrefillKeys;

  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const std::int64_t cache_head = head / p.group * Tile::kRowBytes;
  const auto* key_cache = static_cast<const std::uint8_t*>(a.cache.keys) + cache_head;
  const auto* value_cache = static_cast<const std::uint8_t*>(a.cache.values) + cache_head;
  const std::int64_t row_bytes = a.kv_heads * Tile::kRowBytes;
  const std::uint32_t query_tile = shared_address(shared);
  const std::uint32_t stages = query_tile + Shape::kQueryBytes;

  const auto load = [&](int j) {
    constexpr int kPasses = kPrefillKeys * Tile::kPieces / kPrefillThreads;
    constexpr int kPassRows = kPrefillThreads / Tile::kPieces;
    const int row = static_cast<int>(threadIdx.x) / Tile::kPieces;
    const int piece = static_cast<int>(threadIdx.x) % Tile::kPieces;
    const std::uint32_t to = stages + j % 2 * 2 * Shape::kTileBytes;
    std::int64_t from[kPasses];
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int at = kPrefillKeys * j + kPassRows * pass + row;
      from[pass] = (at < keys ? cache_row(p, sequence.pages, at) : 0) * row_bytes + 16 * piece;
    }
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const bool there = kPrefillKeys * j + kPassRows * pass + row < keys;
      const std::uint32_t at = to + Tile::offset(kPassRows * pass + row, piece);
      copy_async(at, key_cache + from[pass], there);
      copy_async(at + Shape::kTileBytes, value_cache + from[pass], there);
    }
    close_copies();
  };
  load(0);
  load_queries<Tile::kCodes, kDim, Shape::kQueries>(
      shared, static_cast<const std::uint16_t*>(a.q) + (sequence.first_token + first) * a.ldq + head * kDim,
      a.ldq, queries);

  const int warp_row = warp * 16 * kAtoms;
  const auto query = [&](int step, std::uint32_t(&to)[kAtoms][4]) {
#pragma unroll
    for (int atom = 0; atom < kAtoms; ++atom) {
      load_matrices(to[atom],
                    query_tile + QueryTile::offset(warp_row + 16 * atom + lane % 16, 2 * step + lane / 16));
    }
  };
  float out[kAtoms][kDim / 8][4] = {};
  SoftmaxRow rows[kAtoms][2];
#pragma unroll 1
  for (int j = 0; j < key_tiles; ++j) {
    wait_copies<0>();
    __syncthreads();
    if (j + 1 < key_tiles) load(j + 1);
    if (warp_row >= queries) continue;
#pragma unroll 1
    for (int step = 0; step < kPrefillKeys; step += Shape::kStepKeys) {
      const int ahead = position + warp_row - kPrefillKeys * j - step;
      if (ahead + 16 * kAtoms <= 0) break;  // nothing but future
      const std::uint32_t tile = stages + j % 2 * 2 * Shape::kTileBytes + step * Tile::kRowBytes;
      float scores[kAtoms][Shape::kStepKeys / 8][4] = {};
      Tile::template add_scores<kAtoms, Shape::kStepKeys / 16>(scores, tile, lane, query);
#pragma unroll
      for (int atom = 0; atom < kAtoms; ++atom) {
        if (ahead < Shape::kStepKeys - 1) hide_future(scores[atom], ahead + 16 * atom, lane);
        float shrink[2];
        soften(scores[atom], rows[atom], p.scale, shrink);
        shrink_sums(out[atom], shrink);
      }
#pragma unroll
      for (int i = 0; i < Shape::kStepKeys / 16; ++i) {
        std::uint32_t weights[kAtoms][4];
#pragma unroll
        for (int atom = 0; atom < kAtoms; ++atom)
          weights_of(weights[atom], scores[atom][2 * i], scores[atom][2 * i + 1]);
        Tile::template add_values<kAtoms>(out, tile + Shape::kTileBytes, 16 * i, lane, weights);
      }
    }
  }

  auto* const to =
      static_cast<std::uint16_t*>(a.out) + (sequence.first_token + first) * a.ldout + head * kDim;
#pragma unroll
  for (int atom = 0; atom < kAtoms; ++atom) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + 16 * atom + lane / 4 + 8 * half;
      const float factor = __fdiv_rn(p.value_scale, quad_sum(rows[atom][half].sum));
      if (row >= queries) continue;
#pragma unroll
      for (int n = 0; n < kDim / 16; ++n) {
        Tile::each_pair(n, half, lane, out[atom][2 * n], out[atom][2 * n + 1],
                        [&](int element, float x, float y) {
                          *reinterpret_cast<std::uint32_t*>(to + row * a.ldout + element) =
                              bf16_pair(x * factor, y * factor);
                        });
      }
    }
  }
}

template <typename Element, int kDim, int kAtoms>
cudaError_t launch_tiles(const AttentionPlan& plan, cudaStream_t stream) {
  using Shape = PrefillShape<Element, kDim, kAtoms>;
  const PagedAttentionArgs& a = plan.args;
  const std::int64_t tiles = (a.longest_query + Shape::kQueries - 1) / Shape::kQueries;
  if (tiles > 2147483647 / a.heads / a.sequences) return cudaErrorInvalidValue;
  const auto kernel = prefill_kernel<Element, kDim, kAtoms>;
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kBytes);
  if (status != cudaSuccess) return status;
  kernel<<<static_cast<unsigned>(tiles * a.sequences * a.heads), kPrefillThreads, Shape::kBytes, stream>>>(
      plan, static_cast<int>(tiles));
  return cudaGetLastError();
}

template <int kDim>
cudaError_t launch_prefill(const AttentionPlan& plan, cudaStream_t stream) {
  const bool codes = plan.args.cache.dtype == DType::kF8E4M3;
  if (plan.args.longest_query <= 64) {
    return codes ? launch_tiles<std::uint8_t, kDim, 1>(plan, stream)
                 : launch_tiles<std::uint16_t, kDim, 1>(plan, stream);
  }
  return codes ? launch_tiles<std::uint8_t, kDim, 2>(plan, stream)
               : launch_tiles<std::uint16_t, kDim, 2>(plan, stream);
}

}  // namespace slidesparse::cuda
