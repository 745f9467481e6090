#pragma once

#include <cstdint>

#include "slidesparse/core/dtype.h"

namespace slidesparse::cuda {

// The keys and values of one layer on the card, page by page.
struct PagedCache {
  DType dtype = DType::kBF16;  // BF16 or F8_E4M3
  void* keys = nullptr;        // [pages, page_size, kv_heads, head_dim], contiguous, 16-byte aligned
  void* values = nullptr;      // the same
  float key_scale = 1.0f;      // F8_E4M3 only: the value is the code times this
  float value_scale = 1.0f;
  std::int64_t pages = 0;      // pages * page_size is below 2^31
  std::int64_t page_size = 0;  // tokens
};

}  // namespace slidesparse::cuda
