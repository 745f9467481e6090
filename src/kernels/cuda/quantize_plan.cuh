#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "kernels/cuda/early.cuh"
#include "kernels/cuda/numeric.cuh"
#include "kernels/cuda/quantize.h"

// What the quantisation kernels share: the launch as a value, and the writing of output rows.
namespace slidesparse::cuda {

enum class Codes : int { kI8, kF8, kBF16 };

struct QuantizePlan {
  QuantizeArgs args;
  std::int64_t rows = 0;   // with padded ones
  std::int64_t k_out = 0;  // lanes of an output row that hold something
  int vectors = 0;         // of 8 elements, of an input row
  int staged = 0;  // elements of a row in shared memory before they are rearranged, multiple of 32; 0: none
  int lifted = 0;  // bytes of a lifted row of 8-bit codes in shared memory, multiple of 16; 0: none
  int lifted_vectors = 0;          // of 8 lanes, to the end of its last group
  int row_bytes = 0;               // shared memory of a row
  int windows = 0;                 // of 4 lanes, of a lifted row
  std::uint32_t window_magic = 0;  // __umulhi(window, it) is window / (lift - 1)
  std::uint32_t pair_magic = 0;    // __umulhi(pair, it) is pair / lift
  bool wide_in = false;            // 16-byte loads fit all inputs
  bool wide_out = false;           // 16-byte (straight 8-bit codes: 8-byte) stores fit
  bool wide_perm = false;
};

// Threads x, rows y of a block; vectors a thread.
struct QuantizeShape {
  int threads = 0;
  int rows = 0;
  int depth = 0;
};

using Launch = cudaError_t (*)(const QuantizePlan&, const QuantizeShape&, cudaStream_t);
cudaError_t launch_plain(const QuantizePlan& plan, const QuantizeShape& shape, cudaStream_t stream);
cudaError_t launch_norm(const QuantizePlan& plan, const QuantizeShape& shape, cudaStream_t stream);
cudaError_t launch_silu(const QuantizePlan& plan, const QuantizeShape& shape, cudaStream_t stream);
// One row on the blocks of a cluster, for few long rows of norm and SiLU; straight or lifted 8-bit codes.
// can_spread() says whether the card and this row will do.
bool can_spread(const QuantizePlan& plan);
cudaError_t launch_spread(const QuantizePlan& plan, cudaStream_t stream);
// Norm and SiLU of many rows; can_stream() says whether the card and the row will do.
bool can_stream(const QuantizePlan& plan);
cudaError_t launch_stream(const QuantizePlan& plan, cudaStream_t stream);
// Many rows that are gathered; can_gather() says whether the card and the row will do.
bool can_gather(const QuantizePlan& plan);
cudaError_t launch_gather(const QuantizePlan& plan, cudaStream_t stream);
// Few of them; the permutation and a norm's weights are read before the kernel in front has ended.
bool can_gather_few(const QuantizePlan& plan);
cudaError_t launch_gather_few(const QuantizePlan& plan, cudaStream_t stream);
cudaError_t launch_long(const QuantizePlan& plan, cudaStream_t stream);

template <Codes C>
constexpr int kCodeBytes = C == Codes::kBF16 ? 2 : 1;

// Eight BF16 values to two words of codes; of a token that is not usable they must be zeros.
template <Codes C>
__device__ inline uint2 codes_of(const uint4& v, const TokenScale& token) {
  const float s = token.inverse;
  const float a = low_float(v.x) * s, b = high_float(v.x) * s, c = low_float(v.y) * s,
              d = high_float(v.y) * s;
  const float e = low_float(v.z) * s, f = high_float(v.z) * s, g = low_float(v.w) * s,
              h = high_float(v.w) * s;
  if constexpr (C == Codes::kI8) {
    return make_uint2(int8_codes(a, b, c, d), int8_codes(e, f, g, h));
  } else {
    return make_uint2(e4m3_codes(a, b, c, d), e4m3_codes(e, f, g, h));
  }
}

template <Codes C>
constexpr float kDivisor = C == Codes::kI8 ? 127.0f : 448.0f;

// Stores the low `bytes` of a 16-byte piece of a row one element at a time, up to the row's end.
template <typename T>
__device__ inline void store_narrow(T* row, std::int64_t lane, std::int64_t end, uint4 piece, int count) {
  std::uint64_t words[2] = {piece.x | static_cast<std::uint64_t>(piece.y) << 32,
                            piece.z | static_cast<std::uint64_t>(piece.w) << 32};
  constexpr int kHalf = 8 / sizeof(T);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll 1
    for (int i = 0; i < kHalf && half * kHalf + i < count; ++i) {
      if (lane + half * kHalf + i < end) row[lane + half * kHalf + i] = static_cast<T>(words[half]);
      words[half] >>= 8 * sizeof(T);
    }
  }
}

// Lanes 8 i .. 8 i + 7 of a row of codes that goes straight out; zero behind the vectors.
template <Codes C>
__device__ inline void store_vector(const QuantizePlan& p, std::int64_t row, std::int64_t lane, uint4 piece) {
  if constexpr (C == Codes::kBF16) {
    auto* to = static_cast<std::uint16_t*>(p.args.q) + row * p.args.ldq;
    if (p.wide_out) {
      *reinterpret_cast<uint4*>(to + lane) = piece;
    } else {
      store_narrow(to, lane, p.args.ldq, piece, 8);
    }
  } else {
    auto* to = static_cast<std::uint8_t*>(p.args.q) + row * p.args.ldq;
    if (p.wide_out) {
      *reinterpret_cast<uint2*>(to + lane) = make_uint2(piece.x, piece.y);
    } else {
      store_narrow(to, lane, p.args.ldq, piece, 8);
    }
  }
}

// The four lanes from `from` on as the i-th window of a 16-byte piece.
template <typename Source>
__device__ inline void put_window(std::uint32_t (&words)[4], int i, const Source& source, int from) {
  if constexpr (sizeof(typename Source::Element) == 1) {
    words[i] = source.pair(from) | source.pair(from + 2) << 16;
  } else {
    words[2 * i] = source.pair(from);
    words[2 * i + 1] = source.pair(from + 2);
  }
}

// Writes one output row, lifted or gathered, from `source`, which has lane(i) and pair(i) for even i: code
// elements of input lanes, zero behind k. Called by `threads` threads, this one being number t.
template <Codes C, typename Source>
__device__ inline void write_row(const QuantizePlan& p, std::int64_t row, const Source& source, int t,
                                 int threads) {
  using Element = typename Source::Element;
  constexpr int kLanes = 16 / static_cast<int>(sizeof(Element));
  const QuantizeArgs& a = p.args;
  Element* to = static_cast<Element*>(a.q) + row * a.ldq;
  for (std::int64_t lane = static_cast<std::int64_t>(t) * kLanes; lane < a.ldq;
       lane += static_cast<std::int64_t>(threads) * kLanes) {
    std::uint32_t words[4] = {};
    if (a.lift != 0) {
      // Window w of a row begins at lane g * 2N + 2 (w - g (N - 1)) = 2 (w + g), g = w / (N - 1).
      const auto window = static_cast<std::uint32_t>(lane / 4);
      const auto from = [&](std::uint32_t w) {
        return static_cast<int>(2 * (w + __umulhi(w, p.window_magic)));
      };
      if (window + kLanes / 4 <= static_cast<std::uint32_t>(p.windows)) {
#pragma unroll
        for (int i = 0; i < kLanes / 4; ++i) put_window<Source>(words, i, source, from(window + i));
      } else {
#pragma unroll
        for (int i = 0; i < kLanes / 4; ++i) {
          if (window + i < static_cast<std::uint32_t>(p.windows))
            put_window<Source>(words, i, source, from(window + i));
        }
      }
    } else {
      std::int32_t from[kLanes];
      if (a.perm == nullptr) {
#pragma unroll
        for (int i = 0; i < kLanes; ++i) from[i] = static_cast<std::int32_t>(lane) + i;
      } else if (p.wide_perm && lane + kLanes <= a.k) {
#pragma unroll
        for (int i = 0; i < kLanes; i += 4) {
          const int4 four = *reinterpret_cast<const int4*>(a.perm + lane + i);
          from[i] = four.x;
          from[i + 1] = four.y;
          from[i + 2] = four.z;
          from[i + 3] = four.w;
        }
      } else {
#pragma unroll
        for (int i = 0; i < kLanes; ++i) from[i] = lane + i < a.k ? a.perm[lane + i] : 0;
      }
      constexpr int kInWord = 4 / static_cast<int>(sizeof(Element));
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        const std::uint32_t element = lane + i < a.k ? source.lane(from[i]) : 0u;
        words[i / kInWord] |= element << (32 / kInWord * (i % kInWord));
      }
    }
    const uint4 piece = make_uint4(words[0], words[1], words[2], words[3]);
    if (p.wide_out) {
      *reinterpret_cast<uint4*>(to + lane) = piece;
    } else {
      store_narrow(to, lane, a.ldq, piece, kLanes);
    }
  }
}

// The sum of a row's squares in the order of kernels/cpu/ops_rows_body.h: a thread adds up its vector of 8
// elements, a warp its 32 vectors, which are a chunk, and at the end lane l the chunks l, l + 32, ...
// Elements behind the row are zero and change nothing.
constexpr int kChunkVectors = 32;

__device__ inline int chunks_of(int vectors) {
  return (vectors + kChunkVectors - 1) / kChunkVectors;
}

// The same in every lane: addition commutes, so this is the tree that lane 0 would see.
__device__ inline float add_lanes(float value) {
#pragma unroll
  for (int width = 16; width > 0; width /= 2) value += __shfl_xor_sync(0xffffffffu, value, width);
  return value;
}

// add_lanes() of four values at once, with less than a third of the exchanges: lanes 8 s to 8 s + 7 have the
// sum of values[s], by the same tree.
__device__ inline float add_lanes_of_four(const float (&values)[4]) {
  constexpr unsigned kAll = 0xffffffffu;
  const bool upper = (threadIdx.x & 16u) != 0;
  float kept[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float given = upper ? values[i] : values[i + 2];
    kept[i] = (upper ? values[i + 2] : values[i]) + __shfl_xor_sync(kAll, given, 16);
  }
  const bool odd = (threadIdx.x & 8u) != 0;
  const float given = odd ? kept[0] : kept[1];
  float sum = (odd ? kept[1] : kept[0]) + __shfl_xor_sync(kAll, given, 8);
#pragma unroll
  for (int width = 4; width > 0; width /= 2) sum += __shfl_xor_sync(kAll, sum, width);
  return sum;
}

__device__ inline float vector_of_squares(const uint4& v) {
  const auto four = [](float low, float high) { return low * low + high * high; };
  const float a = four(low_float(v.x), low_float(v.z)), b = four(high_float(v.x), high_float(v.z));
  const float c = four(low_float(v.y), low_float(v.w)), d = four(high_float(v.y), high_float(v.w));
  return (a + c) + (b + d);
}

// By a whole warp: `chunks` in shared memory, made with vector_of_squares() and add_lanes().
__device__ inline float sum_of_chunks(const float* chunks, int count) {
  float sum = 0.0f;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < count; i += 32) sum += chunks[i];
  return add_lanes(sum);
}

__device__ inline float inverse_rms(float sum_of_squares, std::int64_t k, float eps) {
  return __fdiv_rn(1.0f, __fsqrt_rn(__fdiv_rn(sum_of_squares, static_cast<float>(k)) + eps));
}

}  // namespace slidesparse::cuda
