#pragma once

#include <algorithm>

#include "kernels/cuda/quantize_plan.cuh"

// The kernel for rows that fit into the registers of one block: everything is read once. A row belongs to
// blockDim.x threads, vector s * blockDim.x + t (8 elements) to thread t; codes go straight to memory or,
// when they are lifted or gathered, through shared memory.
namespace slidesparse::cuda {

constexpr int kMostBlockRows = 16;  // of one warp; of more at most kMostBarriers
constexpr int kMostBarriers = 8;
// Blocks up to this size get few enough registers that two fit a multiprocessor.
constexpr int kUsualThreads = 640;

template <typename T>
struct StagedCodes {
  using Element = T;
  const T* codes;
  __device__ std::uint32_t lane(int i) const { return codes[i]; }
  // Lanes i and i + 1, i even, in one word.
  __device__ std::uint32_t pair(int i) const {
    if constexpr (sizeof(T) == 1) return *reinterpret_cast<const std::uint16_t*>(codes + i);
    return *reinterpret_cast<const std::uint32_t*>(codes + i);
  }
};

// Elements 8 i .. 8 i + 7 of a row, zero behind k.
__device__ inline uint4 load_narrow(const std::uint16_t* row, std::int64_t i, std::int64_t k) {
  std::uint64_t words[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll 1
    for (int e = 0; e < 4; ++e) {
      const std::int64_t at = 8 * i + 4 * half + e;
      if (at < k) words[half] |= static_cast<std::uint64_t>(row[at]) << (16 * e);
    }
  }
  return make_uint4(static_cast<std::uint32_t>(words[0]), static_cast<std::uint32_t>(words[0] >> 32),
                    static_cast<std::uint32_t>(words[1]), static_cast<std::uint32_t>(words[1] >> 32));
}

// This thread's vectors of a row.
template <int kDepth>
__device__ inline void load_row(const std::uint16_t* row, const QuantizePlan& p, bool live,
                                uint4 (&v)[kDepth]) {
  if (p.wide_in) {
#pragma unroll
    for (int s = 0; s < kDepth; ++s) {
      const int i = s * blockDim.x + threadIdx.x;
      v[s] = live && i < p.vectors ? reinterpret_cast<const uint4*>(row)[i] : make_uint4(0, 0, 0, 0);
    }
  } else {
#pragma unroll
    for (int s = 0; s < kDepth; ++s) {
      const int i = s * blockDim.x + threadIdx.x;
      v[s] = live && i < p.vectors ? load_narrow(row, i, p.args.k) : make_uint4(0, 0, 0, 0);
    }
  }
}

template <int kDepth>
__device__ inline void store_row(std::uint16_t* row, const QuantizePlan& p, const uint4 (&v)[kDepth]) {
#pragma unroll
  for (int s = 0; s < kDepth; ++s) {
    const int i = s * blockDim.x + threadIdx.x;
    if (i >= p.vectors) continue;
    if (p.wide_in) {
      reinterpret_cast<uint4*>(row)[i] = v[s];
    } else {
      store_narrow(row, 8 * static_cast<std::int64_t>(i), p.args.k, v[s], 8);
    }
  }
}

// Of two BF16 pairs. One rounding, as the CPU has in effect: FP32 holds products exactly, and sums with so
// many digits more than BF16 that rounding twice is rounding once.
__device__ inline std::uint32_t fma_pair(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t result;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
}
__device__ inline std::uint32_t add_pair(std::uint32_t a, std::uint32_t b) {
  return fma_pair(a, 0x3f803f80u, b);  // times one
}
__device__ inline std::uint32_t mul_pair(std::uint32_t a, std::uint32_t b) {
  return fma_pair(a, b, 0x80008000u);  // minus zero keeps the sign of a zero
}
__device__ inline uint4 add_vector(const uint4& a, const uint4& b) {
  return make_uint4(add_pair(a.x, b.x), add_pair(a.y, b.y), add_pair(a.z, b.z), add_pair(a.w, b.w));
}

__device__ inline std::uint32_t norm_pair(std::uint32_t x, std::uint32_t weight, float inverse) {
  return mul_pair(weight, bf16_pair(low_float(x) * inverse, high_float(x) * inverse));
}
__device__ inline uint4 norm_vector(const uint4& x, const uint4& weight, float inverse) {
  return make_uint4(norm_pair(x.x, weight.x, inverse), norm_pair(x.y, weight.y, inverse),
                    norm_pair(x.z, weight.z, inverse), norm_pair(x.w, weight.w, inverse));
}

__device__ inline std::uint32_t silu_pair(std::uint32_t gate, std::uint32_t up) {
  return bf16_pair(silu(low_float(gate)) * low_float(up), silu(high_float(gate)) * high_float(up));
}
__device__ inline uint4 silu_vector(const uint4& gate, const uint4& up) {
  return make_uint4(silu_pair(gate.x, up.x), silu_pair(gate.y, up.y), silu_pair(gate.z, up.z),
                    silu_pair(gate.w, up.w));
}

__device__ inline uint4 load_vector(const std::uint16_t* row, const QuantizePlan& p, int i) {
  return p.wide_in ? reinterpret_cast<const uint4*>(row)[i] : load_narrow(row, i, p.args.k);
}

// v += a row, one vector after the other: a kernel that waits for two rows at once has no registers left.
template <int kDepth>
__device__ inline void add_update(const std::uint16_t* row, const QuantizePlan& p, bool live,
                                  uint4 (&v)[kDepth]) {
#pragma unroll
  for (int s = 0; s < kDepth; ++s) {
    const int i = s * blockDim.x + threadIdx.x;
    if (!live || i >= p.vectors) continue;
    v[s] = add_vector(v[s], load_vector(row, p, i));
  }
}

// The sums of the chunks that a warp's vectors are.
template <int kDepth>
__device__ inline void store_chunks(const uint4 (&v)[kDepth], float* row_sums) {
  const int t = static_cast<int>(threadIdx.x);
  const int chunk = t / kChunkVectors;
  const int step = static_cast<int>(blockDim.x) / kChunkVectors;
  if constexpr (kDepth == 4) {
    float sums[4];
#pragma unroll
    for (int s = 0; s < kDepth; ++s) sums[s] = vector_of_squares(v[s]);
    const float sum = add_lanes_of_four(sums);
    if (t % 8 == 0) row_sums[t % 32 / 8 * step + chunk] = sum;
  } else {
#pragma unroll
    for (int s = 0; s < kDepth; ++s) {
      const float sum = add_lanes(vector_of_squares(v[s]));
      if (t % 32 == 0) row_sums[s * step + chunk] = sum;
    }
  }
}

// All threads of one row of the block.
__device__ inline void row_barrier() {
  if (blockDim.x == 32) {
    __syncwarp();
  } else {
    asm volatile("bar.sync %0, %1;" ::"r"(threadIdx.y + 1), "r"(blockDim.x) : "memory");
  }
}

// The largest magnitude of a row's BF16 bits, for all its threads. `partial`: 32 words that nobody reads any
// more.
template <int kDepth>
__device__ inline std::uint32_t largest_of_row(const uint4 (&v)[kDepth], std::uint32_t* partial) {
  std::uint32_t pairs = 0;
#pragma unroll
  for (int s = 0; s < kDepth; ++s) {
    pairs = __vmaxu2(pairs, v[s].x & 0x7fff7fffu);
    pairs = __vmaxu2(pairs, v[s].y & 0x7fff7fffu);
    pairs = __vmaxu2(pairs, v[s].z & 0x7fff7fffu);
    pairs = __vmaxu2(pairs, v[s].w & 0x7fff7fffu);
  }
  std::uint32_t largest = __reduce_max_sync(0xffffffffu, max(pairs & 0xffffu, pairs >> 16));
  if (blockDim.x == 32) return largest;
  const int lane = threadIdx.x % 32;
  if (lane == 0) partial[threadIdx.x / 32] = largest;
  row_barrier();
  largest = lane < static_cast<int>(blockDim.x / 32) ? partial[lane] : 0u;
  return __reduce_max_sync(0xffffffffu, largest);
}

// Puts the codes of vector i (lanes 8 i .. 8 i + 7) into the windows of a lifted row that they belong to. A
// window begins at every pair of lanes but the last of a group and holds the next pair too: pair p of group g
// = p / N begins window p - g.
// Windows from `windows` on do not exist.
__device__ inline void lift_vector(const QuantizePlan& p, std::uint8_t* lifted, int windows, int i,
                                   uint2 codes) {
  auto* const words = reinterpret_cast<std::uint32_t*>(lifted);
  const std::uint32_t middle = __byte_perm(codes.x, codes.y, 0x5432);
  const int n = p.args.lift;
  if (n == 4) {  // a vector is a group
    words[3 * i] = codes.x;
    words[3 * i + 1] = middle;
    words[3 * i + 2] = codes.y;
    return;
  }
  auto* const halves = reinterpret_cast<std::uint16_t*>(lifted);
  const int group = static_cast<int>(__umulhi(static_cast<std::uint32_t>(4 * i), p.pair_magic));
  // Pair `last` of these four is the last of its group; for N = 3 pair last + 3 is too.
  const int last = (group + 1) * n - 1 - 4 * i;
  const int window = 4 * i - group;
  const auto put = [&](int pair, auto* to, auto what) {
    if (pair != last && pair != last + n) *to = what;
  };
  const auto at = [&](int pair) { return window + pair - (pair > last ? 1 : 0); };
  const auto low = static_cast<std::uint16_t>(codes.x);
  const auto high = static_cast<std::uint16_t>(codes.y >> 16);
  if (window + 4 <= windows) {
    // The first pair is also the second half of the window before, unless it begins a group.
    if (last != n - 1) halves[2 * window - 1] = low;
    put(0, words + at(0), codes.x);
    put(1, words + at(1), middle);
    put(2, words + at(2), codes.y);
    // The vector after this one has the second half.
    put(3, halves + 2 * at(3), high);
    return;
  }
  if (last != n - 1 && window <= windows) halves[2 * window - 1] = low;
  if (at(0) < windows) put(0, words + at(0), codes.x);
  if (at(1) < windows) put(1, words + at(1), middle);
  if (at(2) < windows) put(2, words + at(2), codes.y);
  if (at(3) < windows) put(3, halves + 2 * at(3), high);
}

// Quantises a row and writes it lifted: the row is put together in shared memory.
template <Codes C, int kDepth>
__device__ inline void write_lifted(const QuantizePlan& p, std::int64_t row, const uint4 (&v)[kDepth],
                                    const TokenScale& token, std::uint8_t* shared) {
  const int threads = static_cast<int>(blockDim.x);
  const int t = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int s = 0; s < kDepth; ++s) {
    const int i = s * threads + t;
    if (i < p.lifted_vectors) lift_vector(p, shared, p.windows, i, codes_of<C>(v[s], token));
  }
  for (int i = kDepth * threads + t; i < p.lifted_vectors; i += threads) {
    lift_vector(p, shared, p.windows, i, make_uint2(0, 0));
  }
  if (4 * (p.windows + t) < p.lifted) reinterpret_cast<std::uint32_t*>(shared)[p.windows + t] = 0;
  row_barrier();
  if (row >= p.rows) return;
  const int width = static_cast<int>(p.args.ldq);
  auto* const to = static_cast<std::uint8_t*>(p.args.q) + row * p.args.ldq;
  for (int at = 16 * t; at < width; at += 16 * threads) {
    const uint4 piece = at < p.lifted ? *reinterpret_cast<const uint4*>(shared + at) : make_uint4(0, 0, 0, 0);
    if (p.wide_out) {
      *reinterpret_cast<uint4*>(to + at) = piece;
    } else {
      store_narrow(to, at, width, piece, 16);
    }
  }
}

// From the BF16 values of a row to its codes and scale. `shared`: p.row_bytes that nobody reads any more.
template <Codes C, int kDepth>
__device__ inline void finish_row(const QuantizePlan& p, std::int64_t row, uint4 (&v)[kDepth],
                                  std::uint8_t* shared, std::uint32_t* partial) {
  using Element = std::conditional_t<C == Codes::kBF16, std::uint16_t, std::uint8_t>;
  const QuantizeArgs& a = p.args;
  const bool written = row < p.rows;
  TokenScale token{0.0f, 0.0f, true};
  if constexpr (C != Codes::kBF16) {
    token = token_scale(largest_of_row(v, partial), kDivisor<C>);
    if (threadIdx.x == 0 && written) a.scale[row] = token.scale;
    if (!token.usable) {
#pragma unroll
      for (int s = 0; s < kDepth; ++s) v[s] = make_uint4(0, 0, 0, 0);
    }
    if (p.lifted != 0) {
      write_lifted<C>(p, row, v, token, shared);
      return;
    }
  }

  if (p.staged == 0) {
    if (!written) return;
#pragma unroll
    for (int s = 0; s < kDepth; ++s) {
      const int i = s * blockDim.x + threadIdx.x;
      if (i >= p.vectors) continue;
      uint4 piece = v[s];
      if constexpr (C != Codes::kBF16) {
        const uint2 codes = codes_of<C>(v[s], token);
        piece = make_uint4(codes.x, codes.y, 0, 0);
      }
      store_vector<C>(p, row, 8 * static_cast<std::int64_t>(i), piece);
    }
    for (std::int64_t lane = 8 * (static_cast<std::int64_t>(p.vectors) + threadIdx.x); lane < a.ldq;
         lane += 8 * static_cast<std::int64_t>(blockDim.x)) {
      store_vector<C>(p, row, lane, make_uint4(0, 0, 0, 0));
    }
    return;
  }

  Element* const codes = reinterpret_cast<Element*>(shared);
#pragma unroll
  for (int s = 0; s < kDepth; ++s) {
    const int i = s * blockDim.x + threadIdx.x;
    if (8 * i >= p.staged) continue;
    if constexpr (C == Codes::kBF16) {
      reinterpret_cast<uint4*>(codes)[i] = v[s];
    } else {
      reinterpret_cast<uint2*>(codes)[i] = codes_of<C>(v[s], token);
    }
  }
  for (int i = 8 * kDepth * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x); i < p.staged;
       i += static_cast<int>(blockDim.x)) {
    codes[i] = 0;
  }
  row_barrier();
  if (written) {
    write_row<C>(p, row, StagedCodes<Element>{codes}, static_cast<int>(threadIdx.x),
                 static_cast<int>(blockDim.x));
  }
}

template <Producer kProducer, Codes C, int kDepth, int kMostThreads>
__global__ void __launch_bounds__(kMostThreads, kMostThreads <= kUsualThreads ? 2 : 1)
    quantize_rows(const __grid_constant__ QuantizePlan p) {
  let_successor_start();
  wait_for_predecessor();
  extern __shared__ __align__(16) std::uint8_t shared[];
  __shared__ std::uint32_t partials[kMostBlockRows][32];
  __shared__ float chunks[kProducer == Producer::kRmsNorm ? kDepth * kMostThreads / kChunkVectors : 1];
  const QuantizeArgs& a = p.args;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const bool live = row < a.m;
  std::uint8_t* row_shared = shared + static_cast<std::int64_t>(threadIdx.y) * p.row_bytes;

  uint4 v[kDepth];
  load_row(static_cast<const std::uint16_t*>(a.x) + row * a.ldx, p, live, v);
  if constexpr (kProducer == Producer::kSiluMul) {
    uint4 up[kDepth];
    load_row(static_cast<const std::uint16_t*>(a.x) + row * a.ldx + a.k, p, live, up);
#pragma unroll
    for (int s = 0; s < kDepth; ++s) v[s] = silu_vector(v[s], up[s]);
  }
  if constexpr (kProducer == Producer::kRmsNorm) {
    if (a.update != nullptr) add_update(static_cast<const std::uint16_t*>(a.update) + row * a.k, p, live, v);
    if (a.residual_out != nullptr && live) {
      store_row(static_cast<std::uint16_t*>(a.residual_out) + row * a.k, p, v);
    }
    const int row_chunks = kDepth * static_cast<int>(blockDim.x) / kChunkVectors;
    float* const row_sums = chunks + static_cast<int>(threadIdx.y) * row_chunks;
    store_chunks(v, row_sums);
    // Registers that waited for the sum would keep other blocks out.
    uint4* const vectors = reinterpret_cast<uint4*>(row_shared);
#pragma unroll
    for (int s = 0; s < kDepth; ++s) {
      const int i = s * blockDim.x + threadIdx.x;
      if (i < p.vectors) vectors[i] = v[s];
    }
    uint4 weight[kDepth];
    load_row(static_cast<const std::uint16_t*>(a.norm_weight), p, live, weight);
    row_barrier();
    const float inverse = inverse_rms(sum_of_chunks(row_sums, chunks_of(p.vectors)), a.k, a.eps);
#pragma unroll
    for (int s = 0; s < kDepth; ++s) {
      const int i = s * blockDim.x + threadIdx.x;
      // What stands behind the row stays +0, whatever the inverse is.
      v[s] = live && i < p.vectors ? norm_vector(vectors[i], weight[s], inverse) : make_uint4(0, 0, 0, 0);
    }
    if (a.normed_out != nullptr && live) {
      store_row(static_cast<std::uint16_t*>(a.normed_out) + row * a.k, p, v);
    }
  }

  // Codes take the place of the norm's copy behind the barrier that largest_of_row() has; BF16 needs one.
  if (kProducer == Producer::kRmsNorm && (C == Codes::kBF16 || blockDim.x == 32)) row_barrier();
  finish_row<C>(p, row, v, row_shared, partials[threadIdx.y]);
}

template <Producer kProducer, Codes C, int kDepth, int kMostThreads>
cudaError_t launch_rows(const QuantizePlan& plan, const QuantizeShape& shape, cudaStream_t stream) {
  constexpr auto kernel = quantize_rows<kProducer, C, kDepth, kMostThreads>;
  const int bytes = plan.row_bytes * shape.rows;
  constexpr int kAlwaysThere = 46 * 1024;  // beside what the kernel has of itself
  if (bytes > kAlwaysThere) {
    const cudaError_t status =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (status != cudaSuccess) return status;
  }
  const std::int64_t blocks = (plan.rows + shape.rows - 1) / shape.rows;
  return launch_early<kernel>(dim3(static_cast<unsigned>(blocks)), dim3(shape.threads, shape.rows),
                              static_cast<std::size_t>(bytes), stream, plan);
}

template <Producer kProducer, Codes C>
cudaError_t launch_codes(const QuantizePlan& plan, const QuantizeShape& shape, cudaStream_t stream) {
  if (shape.depth == 1) return launch_rows<kProducer, C, 1, 1024>(plan, shape, stream);
  // The norm is faster with all registers that it wants, but for rows so long that only one would fit then.
  const bool two =
      shape.threads * shape.rows <= kUsualThreads && (kProducer != Producer::kRmsNorm || shape.threads > 512);
  return two ? launch_rows<kProducer, C, 4, kUsualThreads>(plan, shape, stream)
             : launch_rows<kProducer, C, 4, 1024>(plan, shape, stream);
}

template <Producer kProducer>
cudaError_t launch_producer(const QuantizePlan& plan, const QuantizeShape& shape, cudaStream_t stream) {
  switch (plan.args.out) {
    case DType::kI8:
      return launch_codes<kProducer, Codes::kI8>(plan, shape, stream);
    case DType::kF8E4M3:
      return launch_codes<kProducer, Codes::kF8>(plan, shape, stream);
    default:
      return launch_codes<kProducer, Codes::kBF16>(plan, shape, stream);
  }
}

}  // namespace slidesparse::cuda
