#pragma once

#include <cstdint>

#include "kernels/cuda/paged_cache.h"

namespace slidesparse::cuda {

// A ragged batch: sequence s owns tokens cu_seqlens[s] .. cu_seqlens[s + 1] - 1 of this step, whose positions
// end at context_lengths[s] - 1. Device pointers.
struct PagedAttentionArgs {
  const void* q = nullptr;  // BF16 [m, heads, head_dim], contiguous in a token; 16-byte aligned
  std::int64_t ldq = 0;     // elements from one token to the next, a multiple of 8
  void* out = nullptr;      // the same shape; not q
  std::int64_t ldout = 0;
  std::int64_t m = 0;  // tokens
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  // divides heads, which are at most 16 times as many
  std::int64_t head_dim = 0;  // 64 or 128
  float scale = 1.0f;         // of q k, before softmax; positive
  PagedCache cache;           // with this step's keys and values; page_size is a multiple of 16

  std::int64_t sequences = 0;
  const std::int32_t* cu_seqlens = nullptr;       // [sequences + 1], not falling, 0 .. m
  const std::int32_t* context_lengths = nullptr;  // [sequences], this step included: at least its new tokens
  const std::int32_t* block_tables = nullptr;     // [sequences, max_blocks]: pages
  std::int64_t max_blocks = 0;
  // Bounds that the host knows; a graph serves everything within them.
  std::int64_t longest_query = 0;    // tokens of this step; 1: no sequence has more
  std::int64_t longest_context = 0;  // tokens

  void* workspace = nullptr;  // 16-byte aligned
  std::int64_t workspace_bytes = 0;
};

// Bytes that paged_attention() needs; from sequences, heads, kv_heads, head_dim and longest_context alone.
std::int64_t paged_attention_workspace(const PagedAttentionArgs& args);

// Causal grouped-query attention over the pages, softmax in FP32, weights rounded to BF16. Sequences without
// new tokens are skipped. The same arguments give the same bits; a sequence's may depend on how many others
// there are and on longest_context, which decide into how many parts a context is split. Returns a
// cudaError_t.
int paged_attention(const PagedAttentionArgs& args, void* stream);

}  // namespace slidesparse::cuda
