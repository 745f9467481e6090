#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "kernels/cuda/early.cuh"
#include "kernels/cuda/paged_attention.h"

// What the attention kernels share: a launch as a value, and where things are.
namespace slidesparse::cuda {

// Keys of one position group: pages hold whole ones.
constexpr int kKeyGroup = 16;
// Parts of a context end at multiples of this, so that each of a block's four warps has a whole group.
constexpr int kPartKeys = 64;

struct AttentionPlan {
  PagedAttentionArgs args;
  std::uint32_t page_magic = 0;  // __umulhi(position / 8, it) is position / page_size
  int group = 0;                 // heads that share keys
  int splits = 0;                // most parts of a context, decode only
  float scale = 0;               // of products, for powers of two: with the keys' scale
  float value_scale = 1.0f;
  float* parts = nullptr;  // FP32 [sequences, heads, splits, head_dim]: sums of weight * value
  float* stats = nullptr;  // FP32 [sequences, heads, splits, 2]: largest product, sum of weights
};

// One query token of each sequence; sequences with any other number are left alone.
cudaError_t launch_decode(const AttentionPlan& plan, cudaStream_t stream);
// Sequences of at least two query tokens.
cudaError_t launch_prefill_64(const AttentionPlan& plan, cudaStream_t stream);
cudaError_t launch_prefill_128(const AttentionPlan& plan, cudaStream_t stream);

// A sequence as its blocks see it.
struct AttentionSequence {
  std::int64_t first_token = 0;
  int tokens = 0;
  int context = 0;
  const std::int32_t* pages = nullptr;
};

__device__ inline AttentionSequence attention_sequence(const PagedAttentionArgs& a, std::int64_t s) {
  AttentionSequence sequence;
  sequence.first_token = a.cu_seqlens[s];
  sequence.tokens = static_cast<int>(a.cu_seqlens[s + 1] - sequence.first_token);
  const std::int64_t most = a.max_blocks * a.cache.page_size;
  const std::int64_t context = a.context_lengths[s];
  sequence.context = static_cast<int>(context < most ? context : most);
  sequence.pages = a.block_tables + s * a.max_blocks;
  return sequence;
}

// The row of the cache (of kv_heads * head_dim elements) that holds a position.
__device__ inline std::int64_t cache_row(const AttentionPlan& p, const std::int32_t* pages, int position) {
  const auto block = static_cast<int>(__umulhi(static_cast<std::uint32_t>(position) >> 3, p.page_magic));
  const auto page_size = static_cast<int>(p.args.cache.page_size);
  return static_cast<std::int64_t>(pages[block]) * page_size + (position - block * page_size);
}

}  // namespace slidesparse::cuda
