#include <algorithm>

#include "kernels/cuda/quantize_rows.cuh"

// Many rows whose lanes are gathered: two rows at a time, because a random place in shared memory costs the
// same for the pair as for one. As they come in, both rows' BF16 lanes go side by side into one word,
//
//     shared word i = row 2b+1 lane i : row 2b lane i
//
// and the largest magnitudes are noted on the way; after one barrier every thread fetches the words of 16
// output lanes, scales both halves and writes 16 bytes of each row. A norm needs all of its row first and
// keeps it in registers. Blocks are small enough for several on a multiprocessor: one waits for memory while
// another gathers.
namespace slidesparse::cuda {
namespace {

// Of a block: few for short rows, of which a multiprocessor then has many. And how many blocks the registers
// must leave room for.
constexpr int kShortThreads = 128, kShortBlocks = 8;
constexpr int kLongThreads = 384, kLongBlocks = 3;
constexpr std::int64_t kShortRow = 4096;
// The same of a norm, whose rows are no longer than kNormDepth vectors of 8 a thread.
constexpr int kShortNormBlocks = 6;
constexpr int kLongNormThreads = 256, kLongNormBlocks = 3;
constexpr int kNormDepth = 4;
constexpr std::int64_t kLongestNormRow = 8 * kNormDepth * kLongNormThreads;
constexpr int kLanes = 16;  // of an output row, of a thread at a time
constexpr std::int64_t kFewestRows = 512;
constexpr int kBlocksWanted = 2;  // of a multiprocessor, at least: what limits a row's length

template <Codes C>
__device__ inline std::uint32_t four_codes(const std::uint32_t (&lanes)[4], bool high, float inverse) {
  const auto value = [&](int i) { return (high ? high_float(lanes[i]) : low_float(lanes[i])) * inverse; };
  if constexpr (C == Codes::kI8) {
    return int8_codes(value(0), value(1), value(2), value(3));
  } else {
    return e4m3_codes(value(0), value(1), value(2), value(3));
  }
}

__device__ inline std::uint32_t largest_of(const uint4& v) {
  constexpr std::uint32_t kMagnitudes = 0x7fff7fffu;
  return __vmaxu2(__vmaxu2(v.x & kMagnitudes, v.y & kMagnitudes),
                  __vmaxu2(v.z & kMagnitudes, v.w & kMagnitudes));
}

// Vector i of both rows.
__device__ inline void store_pairs(std::uint32_t* pairs, int i, const uint4& low, const uint4& high) {
  auto* const to = reinterpret_cast<uint4*>(pairs) + 2 * i;
  to[0] = make_uint4(__byte_perm(low.x, high.x, 0x5410), __byte_perm(low.x, high.x, 0x7632),
                     __byte_perm(low.y, high.y, 0x5410), __byte_perm(low.y, high.y, 0x7632));
  to[1] = make_uint4(__byte_perm(low.z, high.z, 0x5410), __byte_perm(low.z, high.z, 0x7632),
                     __byte_perm(low.w, high.w, 0x5410), __byte_perm(low.w, high.w, 0x7632));
}

// Both rows from memory into pairs; the largest magnitude of this thread's lanes of each.
template <Producer kProducer, int kThreads>
__device__ inline void read_rows(const QuantizeArgs& a, int vectors, std::int64_t first, std::uint32_t* pairs,
                                 std::uint32_t (&largest)[2]) {
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x); i < vectors; i += kThreads) {
    uint4 v[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      v[r] = make_uint4(0, 0, 0, 0);
      if (first + r >= a.m) continue;
      const auto* row =
          reinterpret_cast<const uint4*>(static_cast<const std::uint16_t*>(a.x) + (first + r) * a.ldx);
      v[r] = row[i];
      if constexpr (kProducer == Producer::kSiluMul) v[r] = silu_vector(v[r], row[vectors + i]);
      largest[r] = __vmaxu2(largest[r], largest_of(v[r]));
    }
    store_pairs(pairs, i, v[0], v[1]);
  }
}

template <int kThreads>
__device__ inline void store_vectors(std::uint16_t* row, int vectors, const uint4 (&v)[kNormDepth]) {
#pragma unroll
  for (int s = 0; s < kNormDepth; ++s) {
    const int i = s * kThreads + static_cast<int>(threadIdx.x);
    if (i < vectors) reinterpret_cast<uint4*>(row)[i] = v[s];
  }
}

// The same behind residual, update and norm.
template <int kThreads>
__device__ inline void norm_rows(const QuantizePlan& p, std::int64_t first, std::uint32_t* pairs,
                                 std::uint32_t (&largest)[2]) {
  __shared__ float chunks[2][kNormDepth * kThreads / kChunkVectors];
  const QuantizeArgs& a = p.args;
  uint4 v[2][kNormDepth];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const std::int64_t row = first + r;
    const bool live = row < a.m;
    const auto* const x =
        reinterpret_cast<const uint4*>(static_cast<const std::uint16_t*>(a.x) + row * a.ldx);
    const auto* const update =
        reinterpret_cast<const uint4*>(static_cast<const std::uint16_t*>(a.update) + row * a.k);
#pragma unroll
    for (int s = 0; s < kNormDepth; ++s) {
      const int i = s * kThreads + static_cast<int>(threadIdx.x);
      v[r][s] = make_uint4(0, 0, 0, 0);
      if (!live || i >= p.vectors) continue;
      v[r][s] = x[i];
      if (a.update != nullptr) v[r][s] = add_vector(v[r][s], update[i]);
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const std::int64_t row = first + r;
    if (a.residual_out != nullptr && row < a.m)
      store_vectors<kThreads>(static_cast<std::uint16_t*>(a.residual_out) + row * a.k, p.vectors, v[r]);
    store_chunks(v[r], chunks[r]);
  }
  __syncthreads();
  float inverse[2];
#pragma unroll
  for (int r = 0; r < 2; ++r)
    inverse[r] = inverse_rms(sum_of_chunks(chunks[r], chunks_of(p.vectors)), a.k, a.eps);
#pragma unroll
  for (int s = 0; s < kNormDepth; ++s) {
    const int i = s * kThreads + static_cast<int>(threadIdx.x);
    if (i >= p.vectors) continue;
    const uint4 weight = static_cast<const uint4*>(a.norm_weight)[i];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      // What stands behind the rows stays +0, whatever the inverse is.
      v[r][s] = first + r < a.m ? norm_vector(v[r][s], weight, inverse[r]) : make_uint4(0, 0, 0, 0);
      largest[r] = __vmaxu2(largest[r], largest_of(v[r][s]));
    }
    store_pairs(pairs, i, v[0][s], v[1][s]);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (a.normed_out != nullptr && first + r < a.m)
      store_vectors<kThreads>(static_cast<std::uint16_t*>(a.normed_out) + (first + r) * a.k, p.vectors, v[r]);
  }
}

template <Producer kProducer, Codes C, int kThreads, int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks) quantize_gather(const __grid_constant__ QuantizePlan p) {
  extern __shared__ __align__(16) std::uint32_t pairs[];  // [k]
  __shared__ std::uint32_t partials[2][kThreads / 32];
  const QuantizeArgs& a = p.args;
  const int t = static_cast<int>(threadIdx.x);
  const std::int64_t first = 2 * static_cast<std::int64_t>(blockIdx.x);

  std::uint32_t largest[2] = {};
  if constexpr (kProducer == Producer::kRmsNorm) {
    norm_rows<kThreads>(p, first, pairs, largest);
  } else {
    read_rows<kProducer, kThreads>(a, p.vectors, first, pairs, largest);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const std::uint32_t most = __reduce_max_sync(0xffffffffu, max(largest[r] & 0xffffu, largest[r] >> 16));
    if (t % 32 == 0) partials[r][t / 32] = most;
  }
  __syncthreads();
  TokenScale token[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const std::uint32_t most = __reduce_max_sync(0xffffffffu, partials[r][t % 32 % (kThreads / 32)]);
    token[r] = token_scale(most, kDivisor<C>);
    if (t == 0 && first + r < p.rows) a.scale[first + r] = first + r < a.m ? token[r].scale : 0.0f;
  }
  for (std::int64_t lane = std::int64_t{kLanes} * t; lane < a.ldq; lane += kLanes * kThreads) {
    std::uint32_t words[2][kLanes / 4];
#pragma unroll
    for (int i = 0; i < kLanes / 4; ++i) {
      const std::int64_t at = lane + 4 * i;
      std::uint32_t lanes[4] = {};
      if (at < a.k) {  // whole fours: k is a multiple of 8
        const int4 from = *reinterpret_cast<const int4*>(a.perm + at);
        lanes[0] = pairs[from.x];
        lanes[1] = pairs[from.y];
        lanes[2] = pairs[from.z];
        lanes[3] = pairs[from.w];
      }
      words[0][i] = token[0].usable ? four_codes<C>(lanes, false, token[0].inverse) : 0;
      words[1][i] = token[1].usable ? four_codes<C>(lanes, true, token[1].inverse) : 0;
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (first + r >= p.rows) continue;
      auto* const to = static_cast<std::uint8_t*>(a.q) + (first + r) * a.ldq + lane;
      *reinterpret_cast<uint4*>(to) = make_uint4(words[r][0], words[r][1], words[r][2], words[r][3]);
    }
  }
}

template <Producer kProducer, Codes C, int kThreads, int kBlocks>
cudaError_t launch_with(const QuantizePlan& plan, cudaStream_t stream) {
  const auto kernel = quantize_gather<kProducer, C, kThreads, kBlocks>;
  const auto bytes = static_cast<int>(plan.args.k * 4);
  const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  kernel<<<static_cast<unsigned>((plan.rows + 1) / 2), kThreads, bytes, stream>>>(plan);
  return cudaGetLastError();
}

template <Producer kProducer, Codes C>
cudaError_t launch(const QuantizePlan& plan, cudaStream_t stream) {
  constexpr bool kNorm = kProducer == Producer::kRmsNorm;
  if (plan.args.k <= kShortRow)
    return launch_with < kProducer, C, kShortThreads,
           kNorm ? kShortNormBlocks : kShortBlocks > (plan, stream);
  if constexpr (kNorm) {
    return launch_with<kProducer, C, kLongNormThreads, kLongNormBlocks>(plan, stream);
  } else {
    return launch_with<kProducer, C, kLongThreads, kLongBlocks>(plan, stream);
  }
}

template <Producer kProducer>
cudaError_t launch_codes_of(const QuantizePlan& plan, cudaStream_t stream) {
  return plan.args.out == DType::kI8 ? launch<kProducer, Codes::kI8>(plan, stream)
                                     : launch<kProducer, Codes::kF8>(plan, stream);
}

}  // namespace

bool can_gather(const QuantizePlan& plan) {
  const QuantizeArgs& a = plan.args;
  if (a.perm == nullptr || a.out == DType::kBF16) return false;
  if (a.producer == Producer::kRmsNorm && a.k > kLongestNormRow) return false;
  if (!plan.wide_in || !plan.wide_perm || !plan.wide_out || plan.rows < kFewestRows) return false;
  int device = 0, most_bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess) {
    return false;
  }
  return a.k * 4 <= most_bytes / kBlocksWanted - 2048;
}

cudaError_t launch_gather(const QuantizePlan& plan, cudaStream_t stream) {
  switch (plan.args.producer) {
    case Producer::kRmsNorm:
      return launch_codes_of<Producer::kRmsNorm>(plan, stream);
    case Producer::kSiluMul:
      return launch_codes_of<Producer::kSiluMul>(plan, stream);
    default:
      return launch_codes_of<Producer::kNone>(plan, stream);
  }
}

}  // namespace slidesparse::cuda
