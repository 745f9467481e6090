#pragma once

#include <cstdint>

#include <cuda.h>

namespace slidesparse::sm90 {

// A matrix as the copy engine sees it: boxes of rows whose 128 bytes stand in shared memory with their
// 16-byte pieces swizzled (piece ^= row % 8). Elements outside are read as zero and never written.
struct MatrixMap {
  void* data = nullptr;      // on a boundary of 16 bytes
  int element_bytes = 1;     // 1, or 2 for BF16
  std::int64_t columns = 0;  // elements of a row
  std::int64_t rows = 0;
  std::int64_t stride_bytes = 0;  // from row to row, multiple of 16
  int box_rows = 0;               // at most 256; a box has 128 bytes of each
};
// Returns a cudaError_t. A computation on the host: nothing is sent to the card.
int make_tensor_map(const MatrixMap& matrix, CUtensorMap* map);

}  // namespace slidesparse::sm90
