#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/sample.h"

// What the sampler's kernels share. A row's logits are read in pieces (blocks of scan, histogram and raw
// sums), or whole by one block (pick, top).
namespace slidesparse::cuda {

constexpr int kWarp = 32;
constexpr int kPieceLogits = 16384;  // 64 KiB: enough that a block's start and end do not count
// Bins of the histogram by distance from the largest logit. Weights end at a distance of 28.
constexpr int kBins = 2048;
constexpr float kBinsPerUnit = 72.0f;

struct SamplePlan {
  SampleArgs args;
  int pieces = 0;                       // of a row
  std::uint64_t* best = nullptr;        // [rows, pieces]: ranked(), after the penalty
  std::uint64_t* raw_best = nullptr;    // [rows, pieces]: before it
  std::uint64_t* raw_sum = nullptr;     // [rows, pieces]: weights of raw logits at temperature 1
  std::uint64_t* bin_weight = nullptr;  // [rows, kBins]
  std::uint32_t* bin_count = nullptr;   // [rows, kBins]: tokens of weight above 0
};

// One row's logits, with its penalty.
struct RowLogits {
  const float* logits;        // [vocab]
  const std::uint32_t* seen;  // [seen_words(vocab)]; null: no penalty
  float penalty;

  __device__ float penalised(int id, float x) const {
    if (seen == nullptr || (seen[id >> 5] >> (id & 31) & 1u) == 0) return x;
    return penalised_logit(x, penalty);
  }
};

__device__ inline std::uint32_t* seen_of(const SampleArgs& a, const SampleRow& row) {
  if (a.seen == nullptr || row.repetition_penalty == 1.0f) return nullptr;
  return a.seen + row.slot * seen_words(a.vocab);
}
__device__ inline RowLogits row_logits(const SampleArgs& a, std::int64_t r, const SampleRow& row) {
  return {a.logits + r * a.ld, seen_of(a, row), row.repetition_penalty};
}

// Calls each(id, logit) for ids of [begin, end), over all threads of the block; a thread's ids ascend. Loads
// are 16 bytes wide wherever the row lies.
template <int kDepth, typename Each>
__device__ void for_each_logit(const float* row, int begin, int end, Each&& each) {
  const int t = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  const auto misplaced = static_cast<int>(reinterpret_cast<std::uintptr_t>(row + begin) / sizeof(float) % 4);
  const int first = min(end, begin + (4 - misplaced) % 4);
  if (begin + t < first) each(begin + t, row[begin + t]);
  const auto* const vectors = reinterpret_cast<const float4*>(row + first);
  const int count = (end - first) / 4;
  for (int i = t; i < count; i += kDepth * threads) {
    float4 v[kDepth];
#pragma unroll
    for (int s = 0; s < kDepth; ++s) {
      if (i + s * threads < count) v[s] = __ldg(vectors + i + s * threads);
    }
#pragma unroll
    for (int s = 0; s < kDepth; ++s) {
      if (i + s * threads >= count) break;
      const int id = first + 4 * (i + s * threads);
      each(id, v[s].x);
      each(id + 1, v[s].y);
      each(id + 2, v[s].z);
      each(id + 3, v[s].w);
    }
  }
  const int tail = first + 4 * count + t;
  if (tail < end) each(tail, row[tail]);
}

__device__ inline std::uint64_t warp_max(std::uint64_t value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const std::uint64_t other = __shfl_xor_sync(0xffffffffu, value, step);
    value = other > value ? other : value;
  }
  return value;
}
__device__ inline std::uint64_t warp_sum(std::uint64_t value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// Over a row's pieces, by one warp; every lane gets it.
__device__ inline std::uint64_t max_of_pieces(const std::uint64_t* values, int pieces) {
  std::uint64_t best = 0;
  for (int i = static_cast<int>(threadIdx.x) % kWarp; i < pieces; i += kWarp) {
    const std::uint64_t value = values[i];
    best = value > best ? value : best;
  }
  return warp_max(best);
}
__device__ inline std::uint64_t sum_of_pieces(const std::uint64_t* values, int pieces) {
  std::uint64_t sum = 0;
  for (int i = static_cast<int>(threadIdx.x) % kWarp; i < pieces; i += kWarp) sum += values[i];
  return warp_sum(sum);
}

__device__ inline float log_probability(float x, float largest, std::uint64_t sum) {
  const double distance = x == largest ? 0.0 : static_cast<double>(x) - static_cast<double>(largest);
  return static_cast<float>(distance - log(static_cast<double>(sum) * 0x1p-40));
}

__device__ inline int bin_of(float distance) {
  return static_cast<int>(-distance * kBinsPerUnit);
}

// Weights of a bin in two words: shared memory adds 32 bits at once only. `old + low` wraps where a carry is
// due.
__device__ inline void add_to_bin(std::uint32_t* count, std::uint32_t* low, std::uint32_t* high, int bin,
                                  std::uint64_t weight) {
  atomicAdd(count + bin, 1u);
  const auto part = static_cast<std::uint32_t>(weight);
  const std::uint32_t old = atomicAdd(low + bin, part);
  const std::uint32_t carry = old + part < old ? 1u : 0u;
  const std::uint32_t rest = static_cast<std::uint32_t>(weight >> 32) + carry;
  if (rest != 0) atomicAdd(high + bin, rest);
}

// Stores a row's token, by one warp: enters it among the seen, and its log probability.
__device__ inline void finish_row(const SamplePlan& p, std::int64_t r, const SampleRow& row, int token) {
  const SampleArgs& a = p.args;
  const bool first = threadIdx.x % kWarp == 0;
  if (first) {
    a.token[r] = token;
    std::uint32_t* const seen = seen_of(a, row);
    if (seen != nullptr && token >= 0) seen[token >> 5] |= 1u << (token & 31);
  }
  if (a.logprob == nullptr) return;
  const std::uint64_t best = max_of_pieces(p.raw_best + r * p.pieces, p.pieces);
  const std::uint64_t sum = sum_of_pieces(p.raw_sum + r * p.pieces, p.pieces);
  if (!first) return;
  a.logprob[r] = token < 0 ? -INFINITY : log_probability(a.logits[r * a.ld + token], ranked_logit(best), sum);
}

// The launches of sample.cu's steps that have files of their own; each returns a cudaError_t.
cudaError_t launch_pick(const SamplePlan& plan, cudaStream_t stream);
cudaError_t launch_top(const SamplePlan& plan, cudaStream_t stream);

}  // namespace slidesparse::cuda
