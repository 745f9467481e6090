#include "kernels/cuda/quantize_rows.cuh"

// Few rows whose lanes are gathered. Time is latency here and not bytes: a row has a block with a thread for
// each of its vectors, which lanes of the input a thread picks up (and a norm's weights) it reads while the
// kernel in front still runs, and the row goes into shared memory as BF16 while its largest magnitude is
// looked for, so that one barrier serves both. It is scaled when it is picked up.
namespace slidesparse::cuda {
namespace {

constexpr int kMostThreads = 1024;
constexpr int kMostDepth = 4;
// With more rows two at a time are faster (quantize_gather.cu).
constexpr std::int64_t kMostRows = 512;

// From the predecessor's output to the values that are quantised.
template <Producer kProducer, int kDepth>
__device__ inline void produce(const QuantizePlan& p, std::int64_t row, const uint4 (&weight)[kDepth],
                               uint4 (&v)[kDepth]) {
  const QuantizeArgs& a = p.args;
  const bool live = row < a.m;
  const auto* const x = static_cast<const std::uint16_t*>(a.x) + row * a.ldx;
  load_row(x, p, live, v);
  if constexpr (kProducer == Producer::kSiluMul) {
    uint4 up[kDepth];
    load_row(x + a.k, p, live, up);
#pragma unroll
    for (int s = 0; s < kDepth; ++s) v[s] = silu_vector(v[s], up[s]);
  }
  if constexpr (kProducer == Producer::kRmsNorm) {
    __shared__ float chunks[kDepth * kMostThreads / kChunkVectors];
    if (a.update != nullptr) add_update(static_cast<const std::uint16_t*>(a.update) + row * a.k, p, live, v);
    if (a.residual_out != nullptr && live)
      store_row(static_cast<std::uint16_t*>(a.residual_out) + row * a.k, p, v);
    store_chunks(v, chunks);
    row_barrier();
    const float inverse = inverse_rms(sum_of_chunks(chunks, chunks_of(p.vectors)), a.k, a.eps);
#pragma unroll
    for (int s = 0; s < kDepth; ++s) {
      const auto i = static_cast<int>(s * blockDim.x + threadIdx.x);
      // What stands behind the row stays +0, whatever the inverse is.
      v[s] = live && i < p.vectors ? norm_vector(v[s], weight[s], inverse) : make_uint4(0, 0, 0, 0);
    }
    if (a.normed_out != nullptr && live)
      store_row(static_cast<std::uint16_t*>(a.normed_out) + row * a.k, p, v);
  }
}

template <Producer kProducer, Codes C, int kDepth>
__global__ void __launch_bounds__(kMostThreads) quantize_gather_few(const __grid_constant__ QuantizePlan p) {
  let_successor_start();
  extern __shared__ __align__(16) std::uint16_t lanes[];  // [k], BF16
  __shared__ std::uint32_t partials[32];
  constexpr bool kNorm = kProducer == Producer::kRmsNorm;
  constexpr bool kAhead = kDepth == 1;  // with more there are not the registers
  const QuantizeArgs& a = p.args;
  const int t = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  const std::int64_t row = blockIdx.x;

  int4 ahead[2] = {};
  if (kAhead && t < p.vectors) {
    ahead[0] = reinterpret_cast<const int4*>(a.perm)[2 * t];
    ahead[1] = reinterpret_cast<const int4*>(a.perm)[2 * t + 1];
  }
  uint4 weight[kDepth] = {};
  if constexpr (kNorm) load_row(static_cast<const std::uint16_t*>(a.norm_weight), p, true, weight);
  wait_for_predecessor();

  uint4 v[kDepth];
  produce<kProducer>(p, row, weight, v);
#pragma unroll
  for (int s = 0; s < kDepth; ++s) {
    const int i = s * threads + t;
    if (i < p.vectors) reinterpret_cast<uint4*>(lanes)[i] = v[s];
  }
  TokenScale token{0.0f, 0.0f, true};
  if constexpr (C != Codes::kBF16) {
    token = token_scale(largest_of_row(v, partials), kDivisor<C>);
    if (t == 0) a.scale[row] = token.scale;
  }
  // What largest_of_row() has otherwise.
  if (C == Codes::kBF16 || threads == 32) row_barrier();

  const auto pair = [&](int low, int high) {
    return static_cast<std::uint32_t>(lanes[low]) | static_cast<std::uint32_t>(lanes[high]) << 16;
  };
  for (std::int64_t lane = 8 * t; lane < a.ldq; lane += 8 * threads) {
    uint4 piece = make_uint4(0, 0, 0, 0);
    if (lane < a.k) {
      const auto* const from = reinterpret_cast<const int4*>(a.perm + lane);
      const int4 low = kAhead ? ahead[0] : from[0];
      const int4 high = kAhead ? ahead[1] : from[1];
      piece = make_uint4(pair(low.x, low.y), pair(low.z, low.w), pair(high.x, high.y), pair(high.z, high.w));
    }
    if constexpr (C != Codes::kBF16) {
      const uint2 codes = token.usable ? codes_of<C>(piece, token) : make_uint2(0, 0);
      piece = make_uint4(codes.x, codes.y, 0, 0);
    }
    store_vector<C>(p, row, lane, piece);
  }
}

template <Producer kProducer, Codes C, int kDepth>
cudaError_t launch(const QuantizePlan& plan, cudaStream_t stream) {
  constexpr auto kernel = quantize_gather_few<kProducer, C, kDepth>;
  const int threads = kDepth == 1 ? (plan.vectors + 31) / 32 * 32 : kMostThreads;
  const auto bytes = static_cast<int>(plan.args.k * 2);
  constexpr int kAlwaysThere = 46 * 1024;  // beside what the kernel has of itself
  if (bytes > kAlwaysThere) {
    const cudaError_t status =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (status != cudaSuccess) return status;
  }
  return launch_early<kernel>(dim3(static_cast<unsigned>(plan.rows)), dim3(static_cast<unsigned>(threads)),
                              static_cast<std::size_t>(bytes), stream, plan);
}

template <Producer kProducer, int kDepth>
cudaError_t launch_codes_of(const QuantizePlan& plan, cudaStream_t stream) {
  switch (plan.args.out) {
    case DType::kI8:
      return launch<kProducer, Codes::kI8, kDepth>(plan, stream);
    case DType::kF8E4M3:
      return launch<kProducer, Codes::kF8, kDepth>(plan, stream);
    default:
      return launch<kProducer, Codes::kBF16, kDepth>(plan, stream);
  }
}

template <Producer kProducer>
cudaError_t launch_depth(const QuantizePlan& plan, cudaStream_t stream) {
  return plan.vectors <= kMostThreads ? launch_codes_of<kProducer, 1>(plan, stream)
                                      : launch_codes_of<kProducer, kMostDepth>(plan, stream);
}

}  // namespace

bool can_gather_few(const QuantizePlan& plan) {
  return plan.args.perm != nullptr && plan.rows <= kMostRows && plan.vectors <= kMostDepth * kMostThreads &&
         plan.wide_in && plan.wide_perm && plan.wide_out;
}

cudaError_t launch_gather_few(const QuantizePlan& plan, cudaStream_t stream) {
  switch (plan.args.producer) {
    case Producer::kRmsNorm:
      return launch_depth<Producer::kRmsNorm>(plan, stream);
    case Producer::kSiluMul:
      return launch_depth<Producer::kSiluMul>(plan, stream);
    default:
      return launch_depth<Producer::kNone>(plan, stream);
  }
}

}  // namespace slidesparse::cuda
