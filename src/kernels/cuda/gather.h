#pragma once

#include <cstdint>

namespace slidesparse::cuda {

struct GatherArgs {
  const void* table = nullptr;        // BF16 [rows, width], row stride ldtable
  std::int64_t ldtable = 0;           // elements
  std::int64_t rows = 0;              // of the table
  const std::int32_t* ids = nullptr;  // [m], on the card
  std::int64_t m = 0;
  std::int64_t width = 0;
  void* out = nullptr;  // BF16 [m, width], contiguous; not the table
};

// out[i, :] = table[ids[i], :]. An id that the table does not have gives a row of NaN. Returns a cudaError_t.
int gather_rows(const GatherArgs& args, void* stream);

}  // namespace slidesparse::cuda
