#include <cooperative_groups.h>

#include <algorithm>

#include "kernels/cuda/quantize_rows.cuh"

// A few long rows do not fill the card when each has one block: a row's arithmetic alone takes microseconds
// then. Here a row has a cluster of eight blocks, which exchange their maxima (and the norm's squares)
// through distributed shared memory. Compute capability 9.0 and later.
namespace slidesparse::cuda {
namespace {

constexpr int kSpread = 8;
// Up to here clusters are faster, as measured on an H200: beyond, blocks wait for eight places at once. SiLU
// has most arithmetic, so it gains longest.
constexpr std::int64_t kMostRows = 16;
constexpr std::int64_t kMostSiluRows = 64;
// In vectors: shorter rows gain less from more threads than the exchange costs.
constexpr int kShortest = 1024;
constexpr std::int64_t kLongestNorm = 20480;  // squares of a row in the shared memory of one block

struct SpreadPlan {
  QuantizePlan plan;
  int vectors =
      0;  // of a block; of a lifted row a multiple of N, so that blocks begin with a group and 16 bytes
  int windows = 0;  // of a block
};

template <Producer kProducer, Codes C>
__global__ void __launch_bounds__(1024) quantize_spread(const __grid_constant__ SpreadPlan spread) {
#if __CUDA_ARCH__ >= 900
  namespace cg = cooperative_groups;
  extern __shared__ __align__(16) std::uint8_t shared[];
  __shared__ std::uint32_t partials[32];
  __shared__ std::uint32_t maxima[kSpread];
  __shared__ float inverse_shared;
  const QuantizePlan& p = spread.plan;
  const QuantizeArgs& a = p.args;
  const cg::cluster_group cluster = cg::this_cluster();
  const int rank = static_cast<int>(cluster.block_rank());
  const std::int64_t row = blockIdx.x / kSpread;
  const bool live = row < a.m;
  const int t = static_cast<int>(threadIdx.x);
  const int i = rank * spread.vectors + t;
  const bool inside = live && t < spread.vectors && i < p.vectors;
  // Others may write into this block's memory once it runs; waited for before the first write.
  auto started = cluster.barrier_arrive();

  const auto load = [&](const void* from, std::int64_t offset) {
    const auto* elements = static_cast<const std::uint16_t*>(from) + offset;
    if (!inside) return make_uint4(0, 0, 0, 0);
    return p.wide_in ? reinterpret_cast<const uint4*>(elements)[i] : load_narrow(elements, i, a.k);
  };
  const auto store = [&](void* to, const uint4& v) {
    auto* elements = static_cast<std::uint16_t*>(to) + row * a.k;
    if (!inside) return;
    if (p.wide_in) {
      reinterpret_cast<uint4*>(elements)[i] = v;
    } else {
      store_narrow(elements, 8 * static_cast<std::int64_t>(i), a.k, v, 8);
    }
  };
  uint4 v = load(a.x, row * a.ldx);
  if constexpr (kProducer == Producer::kSiluMul) {
    const uint4 up = load(a.x, row * a.ldx + a.k);
    v = silu_vector(v, up);
  }
  if constexpr (kProducer == Producer::kRmsNorm) {
    const uint4 weight = load(a.norm_weight, 0);
    if (a.update != nullptr) v = add_vector(v, load(a.update, row * a.k));
    if (a.residual_out != nullptr) store(a.residual_out, v);
    cluster.barrier_wait(std::move(started));
    const auto square = [](float x) { return x * x; };
    float4* const squares = reinterpret_cast<float4*>(cluster.map_shared_rank(shared, 0));
    // Zeros behind the row to a multiple of 32.
    const int whole = (p.vectors + 3) / 4 * 4;
    if (t < spread.vectors && i < whole) {
      squares[2 * i] = make_float4(square(low_float(v.x)), square(high_float(v.x)), square(low_float(v.y)),
                                   square(high_float(v.y)));
      squares[2 * i + 1] = make_float4(square(low_float(v.z)), square(high_float(v.z)),
                                       square(low_float(v.w)), square(high_float(v.w)));
    }
    cluster.sync();
    if (rank == 0 && t < 32) {
      SquareSum sum;
      sum.add_squares(reinterpret_cast<const float*>(shared), whole / 4);
      const float inverse = inverse_rms(__shfl_sync(0xffffffffu, sum.total(), 0), a.k, a.eps);
      if (t < kSpread) *cluster.map_shared_rank(&inverse_shared, t) = inverse;
    }
    cluster.sync();
    v = inside ? norm_vector(v, weight, inverse_shared) : make_uint4(0, 0, 0, 0);
    if (a.normed_out != nullptr) store(a.normed_out, v);
  } else {
    cluster.barrier_wait(std::move(started));
  }

  const uint4 one[1] = {v};
  const std::uint32_t mine = largest_of_row(one, partials);
  if (t < kSpread) *cluster.map_shared_rank(&maxima[rank], t) = mine;
  cluster.sync();
  std::uint32_t largest = 0;
#pragma unroll
  for (int other = 0; other < kSpread; ++other) largest = max(largest, maxima[other]);
  const TokenScale token = token_scale(largest, kDivisor<C>);
  if (rank == 0 && t == 0) a.scale[row] = token.scale;
  if (!token.usable) v = make_uint4(0, 0, 0, 0);
  const uint2 codes = codes_of<C>(v, token);

  const int threads = static_cast<int>(blockDim.x);
  if (p.lifted == 0) {
    if (t < spread.vectors && i < p.vectors) {
      store_vector<C>(p, row, 8 * static_cast<std::int64_t>(i), make_uint4(codes.x, codes.y, 0, 0));
    }
    if (rank != kSpread - 1) return;
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
  if (t < spread.vectors) lift_vector(p, shared, windows, t, codes);
  if (4 * (windows + t) < bytes) reinterpret_cast<std::uint32_t*>(shared)[windows + t] = 0;
  __syncthreads();
  auto* const to = static_cast<std::uint8_t*>(a.q) + row * a.ldq;
  const int begin = min(4 * first_window, p.lifted);
  const int end = rank == kSpread - 1 ? static_cast<int>(a.ldq) : begin + bytes;
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

int compute_capability() {
  int device = 0;
  int major = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) return 0;
  return major;
}

// The code that this card runs may have been made from PTX for an older one: without clusters.
bool has_clusters() {
  static const bool kHas = [] {
    cudaFuncAttributes attributes{};
    const auto kernel = quantize_spread<Producer::kNone, Codes::kI8>;
    return compute_capability() >= 9 && cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess &&
           attributes.ptxVersion >= 90;
  }();
  return kHas;
}

template <Producer kProducer, Codes C>
cudaError_t launch(const SpreadPlan& spread, int bytes, cudaStream_t stream) {
  const auto kernel = quantize_spread<kProducer, C>;
  if (bytes > 46 * 1024) {
    const cudaError_t status =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (status != cudaSuccess) return status;
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = kSpread;
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(spread.plan.rows * kSpread));
  config.blockDim = dim3(static_cast<unsigned>((spread.vectors + 31) / 32 * 32));
  config.dynamicSmemBytes = static_cast<std::size_t>(bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, spread);
}

template <Producer kProducer>
cudaError_t launch_codes_of(const SpreadPlan& spread, int bytes, cudaStream_t stream) {
  return spread.plan.args.out == DType::kI8 ? launch<kProducer, Codes::kI8>(spread, bytes, stream)
                                            : launch<kProducer, Codes::kF8>(spread, bytes, stream);
}

}  // namespace

bool can_spread(const QuantizePlan& plan) {
  const QuantizeArgs& a = plan.args;
  const std::int64_t most = a.producer == Producer::kSiluMul ? kMostSiluRows : kMostRows;
  if (plan.rows > most || a.out == DType::kBF16 || plan.staged != 0) return false;
  if (plan.vectors < kShortest || (a.producer == Producer::kRmsNorm && a.k > kLongestNorm)) return false;
  return has_clusters();
}

cudaError_t launch_spread(const QuantizePlan& plan, cudaStream_t stream) {
  SpreadPlan spread;
  spread.plan = plan;
  const int n = plan.args.lift == 0 ? 1 : plan.args.lift;
  // To the end of the last group, and of the 32 elements that the norm adds up at a time.
  const int vectors = std::max({plan.vectors, plan.lifted_vectors, (plan.vectors + 3) / 4 * 4});
  spread.vectors = ((vectors + kSpread - 1) / kSpread + n - 1) / n * n;
  spread.windows = spread.vectors * 4 / n * (n - 1);
  int bytes = plan.lifted == 0 ? 0 : spread.windows * 4;
  switch (plan.args.producer) {
    case Producer::kRmsNorm:
      bytes = std::max(bytes, (plan.vectors + 3) / 4 * 32 * 4);
      return launch_codes_of<Producer::kRmsNorm>(spread, bytes, stream);
    case Producer::kSiluMul:
      return launch_codes_of<Producer::kSiluMul>(spread, bytes, stream);
    default:
      return launch_codes_of<Producer::kNone>(spread, bytes, stream);
  }
}

}  // namespace slidesparse::cuda
