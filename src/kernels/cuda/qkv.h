#pragma once

#include <cstdint>

#include "kernels/cuda/paged_cache.h"

namespace slidesparse::cuda {

// What happens between the product of q, k and v and attention. Device pointers, all but positions and slots
// 16-byte aligned.
struct QkvArgs {
  void* qkv = nullptr;  // BF16 [m, (heads + 2 kv_heads) * head_dim]: q, k, v; row stride ld
  std::int64_t ld = 0;  // elements, a multiple of 8
  std::int64_t m = 0;   // tokens
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;  // a multiple of 16, at most 256

  // RMSNorm of every head before rotary; both or neither.
  const void* q_norm = nullptr;  // BF16 [head_dim]
  const void* k_norm = nullptr;  // BF16 [head_dim]
  float eps = 0;

  const float* rotary_table = nullptr;  // [max_positions, head_dim]: cosines, then sines, of half a head
  std::int64_t max_positions = 0;
  const std::int32_t* positions = nullptr;  // [m]; one outside the table makes the token's q and k NaN

  // [m]: page * page_size + offset in the page; negative or outside the cache: k and v go nowhere. Two tokens
  // with one slot leave either of them.
  const std::int32_t* slots = nullptr;
  PagedCache cache;  // written: F8_E4M3 is value / scale, saturating
  bool keys_in_place = false;  // whether k is written back as q is
};

// q is normalised, rotated and written back in place; k, normalised and rotated, and v go to the cache, while
// their columns of qkv stay as they were, unless keys are wanted there too. Bit-equal to head_rms_norm(), rotary() and write_kv() of the CPU.
// Returns a cudaError_t.
int finish_qkv(const QkvArgs& args, void* stream);

}  // namespace slidesparse::cuda
