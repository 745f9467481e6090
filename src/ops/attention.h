#pragma once

#include <cstdint>
#include <span>

#include "core/device.h"
#include "core/tensor.h"

namespace slidesparse {

// A paged KV cache of one layer: keys and values BF16 [pages, page_size, kv_heads, head_dim].
struct KvPages {
  TensorView keys;
  TensorView values;
  bool rounded = false;  // write_kv rounds them to E4M3: what a cache of such codes would give back
};

// A ragged batch as attention sees it. Sequence s owns tokens cu_seqlens[s] .. cu_seqlens[s + 1] - 1 of this
// step, whose positions end at context_lengths[s] - 1; its cache pages are block_tables[s * max_blocks ..].
struct AttentionBatch {
  std::span<const std::int32_t> cu_seqlens;       // [sequences + 1]
  std::span<const std::int32_t> context_lengths;  // [sequences], this step included
  std::span<const std::int32_t> block_tables;     // [sequences, max_blocks]
  std::int64_t max_blocks = 0;
};

// Writes this step's k and v [tokens, kv_heads, head_dim] into the pages.
void write_kv(const Context& context, const AttentionBatch& batch, const TensorView& k, const TensorView& v,
              const KvPages& pages);

// Causal grouped-query attention over the pages (this step's keys are there already): q, out [tokens, heads,
// head_dim] BF16. Softmax in FP32.
void paged_attention(const Context& context, const AttentionBatch& batch, const TensorView& q,
                     const KvPages& pages, double scale, const TensorView& out);
// Arena bytes that paged_attention takes.
std::int64_t paged_attention_workspace(const AttentionBatch& batch, std::int64_t kv_heads,
                                       std::int64_t head_dim);

}  // namespace slidesparse
