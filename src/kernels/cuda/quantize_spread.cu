#include <cooperative_groups.h>

#include <algorithm>
#include <numeric>

#include "kernels/cuda/quantize_rows.cuh"

// A few long rows do not fill the card when each has one block: a row's arithmetic alone takes microseconds
// then. Here a row has a cluster of blocks, which exchange their maxima (and the norm's sums) through
// distributed shared memory. Compute capability 9.0 and later.
namespace slidesparse::cuda {
namespace {

constexpr int kMostSpread = 8;
constexpr int kMostThreads = 1024;
constexpr int kMostDepth = 2;
constexpr std::int64_t kFewRows = 32;
constexpr std::int64_t kMostRows = 64;
// In vectors: shorter rows have a thread for each anyway, longer ones do not fit.
constexpr int kShortest = 1024;
constexpr int kLongest = 4096;

struct SpreadPlan {
  QuantizePlan plan;
  int size = 0;     // blocks of a row
  int vectors = 0;  // of a block; whole groups of a lifted row, 16 bytes of it, and chunks of the norm
  int windows = 0;  // of a block
};

template <Producer kProducer, Codes C, int kDepth>
__global__ void __launch_bounds__(kMostThreads) quantize_spread(const __grid_constant__ SpreadPlan spread) {
#if __CUDA_ARCH__ >= 900
  let_successor_start();
  namespace cg = cooperative_groups;
  extern __shared__ __align__(16) std::uint8_t shared[];
  __shared__ std::uint32_t partials[32];
  __shared__ std::uint32_t maxima[kMostSpread];
  __shared__ float chunks[kProducer == Producer::kRmsNorm ? kLongest / kChunkVectors : 1];
  const QuantizePlan& p = spread.plan;
  const QuantizeArgs& a = p.args;
  const cg::cluster_group cluster = cg::this_cluster();
  const int rank = static_cast<int>(cluster.block_rank());
  const std::int64_t row = blockIdx.x / spread.size;
  const bool live = row < a.m;
  const int t = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  const int first = rank * spread.vectors;
  // Others may write into this block's memory once it runs; waited for before the first write.
  auto started = cluster.barrier_arrive();
  wait_for_predecessor();

  // This thread's s-th vector of the block and of the row.
  const auto local = [&](int s) { return s * threads + t; };
  const auto inside = [&](int s) {
    return live && local(s) < spread.vectors && first + local(s) < p.vectors;
  };
  const auto load = [&](const void* from, std::int64_t offset, uint4(&v)[kDepth]) {
    const auto* elements = static_cast<const std::uint16_t*>(from) + offset;
#pragma unroll
    for (int s = 0; s < kDepth; ++s) {
      v[s] = make_uint4(0, 0, 0, 0);
      if (!inside(s)) continue;
      v[s] = load_vector(elements, p, first + local(s));
    }
  };
  const auto store = [&](void* to, const uint4(&v)[kDepth]) {
    auto* elements = static_cast<std::uint16_t*>(to) + row * a.k;
#pragma unroll
    for (int s = 0; s < kDepth; ++s) {
      const int i = first + local(s);
      if (!inside(s)) continue;
      if (p.wide_in) {
        reinterpret_cast<uint4*>(elements)[i] = v[s];
      } else {
        store_narrow(elements, 8 * static_cast<std::int64_t>(i), a.k, v[s], 8);
      }
    }
  };
  uint4 v[kDepth];
  load(a.x, row * a.ldx, v);
  if constexpr (kProducer == Producer::kSiluMul) {
    uint4 up[kDepth];
    load(a.x, row * a.ldx + a.k, up);
#pragma unroll
    for (int s = 0; s < kDepth; ++s) v[s] = silu_vector(v[s], up[s]);
  }
  if constexpr (kProducer == Producer::kRmsNorm) {
    uint4 weight[kDepth];
    load(a.norm_weight, 0, weight);
    if (a.update != nullptr) {
      uint4 update[kDepth];
      load(a.update, row * a.k, update);
#pragma unroll
      for (int s = 0; s < kDepth; ++s) v[s] = add_vector(v[s], update[s]);
    }
    if (a.residual_out != nullptr) store(a.residual_out, v);
    cluster.barrier_wait(std::move(started));
#pragma unroll
    for (int s = 0; s < kDepth; ++s) {
      const float sum = add_lanes(vector_of_squares(v[s]));
      // Lane r tells block r; a warp's vectors are one chunk, or lie behind the block's.
      const int lane = t % 32;
      if (lane < spread.size && local(s) - lane < spread.vectors && first + local(s) - lane < p.vectors)
        *cluster.map_shared_rank(&chunks[(first + local(s) - lane) / kChunkVectors], lane) = sum;
    }
    cluster.sync();
    const float inverse = inverse_rms(sum_of_chunks(chunks, chunks_of(p.vectors)), a.k, a.eps);
#pragma unroll
    for (int s = 0; s < kDepth; ++s) {
      v[s] = inside(s) ? norm_vector(v[s], weight[s], inverse) : make_uint4(0, 0, 0, 0);
    }
    if (a.normed_out != nullptr) store(a.normed_out, v);
  } else {
    cluster.barrier_wait(std::move(started));
  }

  const std::uint32_t mine = largest_of_row(v, partials);
  if (t < spread.size) *cluster.map_shared_rank(&maxima[rank], t) = mine;
  cluster.sync();
  std::uint32_t largest = 0;
#pragma unroll
  for (int other = 0; other < kMostSpread; ++other) {
    if (other < spread.size) largest = max(largest, maxima[other]);
  }
  const TokenScale token = token_scale(largest, kDivisor<C>);
  if (rank == 0 && t == 0) a.scale[row] = token.scale;
  uint2 codes[kDepth];
#pragma unroll
  for (int s = 0; s < kDepth; ++s) {
    if (!token.usable) v[s] = make_uint4(0, 0, 0, 0);
    codes[s] = codes_of<C>(v[s], token);
  }

  if (p.lifted == 0) {
#pragma unroll
    for (int s = 0; s < kDepth; ++s) {
      const int i = first + local(s);
      if (local(s) < spread.vectors && i < p.vectors)
        store_vector<C>(p, row, 8 * static_cast<std::int64_t>(i), make_uint4(codes[s].x, codes[s].y, 0, 0));
    }
    if (rank != spread.size - 1) return;
    for (std::int64_t lane = 8 * (static_cast<std::int64_t>(p.vectors) + t); lane < a.ldq;
         lane += 8 * threads) {
      store_vector<C>(p, row, lane, make_uint4(0, 0, 0, 0));
    }
    return;
  }
  const int first_window = rank * spread.windows;
  const int windows = max(0, min(spread.windows, p.windows - first_window));
  // Of the 16-byte pieces that are this block's.
  const int bytes = (4 * windows + 15) / 16 * 16;
#pragma unroll
  for (int s = 0; s < kDepth; ++s) {
    if (local(s) < spread.vectors) lift_vector(p, shared, windows, local(s), codes[s]);
  }
  if (4 * (windows + t) < bytes) reinterpret_cast<std::uint32_t*>(shared)[windows + t] = 0;
  __syncthreads();
  auto* const to = static_cast<std::uint8_t*>(a.q) + row * a.ldq;
  const int begin = min(4 * first_window, p.lifted);
  const int end = rank == spread.size - 1 ? static_cast<int>(a.ldq) : begin + bytes;
  for (int at = begin + 16 * t; at < end; at += 16 * threads) {
    const uint4 piece =
        at < begin + bytes ? *reinterpret_cast<const uint4*>(shared + (at - begin)) : make_uint4(0, 0, 0, 0);
    if (p.wide_out) {
      *reinterpret_cast<uint4*>(to + at) = piece;
    } else {
      store_narrow(to, at, a.ldq, piece, 16);
    }
  }
#endif
}

// The code that this card runs may have been made from PTX for an older one: without clusters, as without
// early launches.
bool has_clusters() {
  return launches_early<quantize_spread<Producer::kSiluMul, Codes::kI8, 1>>();
}

template <Producer kProducer, Codes C, int kDepth>
cudaError_t launch(const SpreadPlan& spread, cudaStream_t stream) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = static_cast<unsigned>(spread.size);
  attributes[0].val.clusterDim.y = 1;
  attributes[0].val.clusterDim.z = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(spread.plan.rows * spread.size));
  const int threads = (spread.vectors + kDepth - 1) / kDepth;
  config.blockDim = dim3(static_cast<unsigned>((threads + 31) / 32 * 32));
  config.dynamicSmemBytes = spread.plan.lifted == 0 ? 0 : static_cast<std::size_t>(spread.windows) * 4;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, quantize_spread<kProducer, C, kDepth>, spread);
}

template <Producer kProducer, Codes C>
cudaError_t launch_depth(const SpreadPlan& spread, cudaStream_t stream) {
  return spread.vectors <= kMostThreads ? launch<kProducer, C, 1>(spread, stream)
                                        : launch<kProducer, C, kMostDepth>(spread, stream);
}

template <Producer kProducer>
cudaError_t launch_codes_of(const SpreadPlan& spread, cudaStream_t stream) {
  return spread.plan.args.out == DType::kI8 ? launch_depth<kProducer, Codes::kI8>(spread, stream)
                                            : launch_depth<kProducer, Codes::kF8>(spread, stream);
}

SpreadPlan spread_over(const QuantizePlan& plan, int size) {
  SpreadPlan spread;
  spread.plan = plan;
  spread.size = size;
  const int n = plan.args.lift == 0 ? 1 : plan.args.lift;
  const int unit = plan.args.producer == Producer::kRmsNorm ? std::lcm(n, kChunkVectors) : n;
  const int vectors = std::max(plan.vectors, plan.lifted_vectors);
  spread.vectors = ((vectors + size - 1) / size + unit - 1) / unit * unit;
  spread.windows = spread.vectors * 4 / n * (n - 1);
  return spread;
}

// What was fastest, measured: 0, a block for each row, which plain quantisation and rows that one block has
// threads for like best; eight blocks while the card is far from full; two when it nearly is, because then
// clusters wait for their places.
int spread_size(const QuantizePlan& plan) {
  if (plan.args.producer == Producer::kNone || plan.vectors <= kShortest || plan.rows > kMostRows) return 0;
  return plan.rows <= kFewRows ? kMostSpread : 2;
}

}  // namespace

bool can_spread(const QuantizePlan& plan) {
  if (plan.args.out == DType::kBF16 || plan.staged != 0) return false;
  if (plan.vectors > kLongest) return false;
  const int size = spread_size(plan);
  return size != 0 && spread_over(plan, size).vectors <= kMostDepth * kMostThreads && has_clusters();
}

cudaError_t launch_spread(const QuantizePlan& plan, cudaStream_t stream) {
  const SpreadPlan spread = spread_over(plan, spread_size(plan));
  switch (plan.args.producer) {
    case Producer::kRmsNorm:
      return launch_codes_of<Producer::kRmsNorm>(spread, stream);
    case Producer::kSiluMul:
      return launch_codes_of<Producer::kSiluMul>(spread, stream);
    default:
      return cudaErrorInvalidValue;  // can_spread() says no
  }
}

}  // namespace slidesparse::cuda
