#pragma once

#include <cstdint>

#include "kernels/sm90/sm90_fragments.h"

// Stored weights to register-fragment order.
namespace slidesparse::sm90 {

// Rows as they are stored, elements of 1 or 2 bytes, on the card. A row's values are first those of its
// sparse lanes (two for each window of four lanes), then those of its dense lanes.
struct StoredRows {
  const std::uint8_t* values = nullptr;  // [rows, 2 * windows + dense_lanes] elements, contiguous
  const std::uint8_t* codes = nullptr;   // [rows, code_bytes]
  std::int64_t rows = 0;
  std::int64_t windows = 0;      // of four lanes with two values; slid ones where half_group > 2
  std::int64_t dense_lanes = 0;  // of a row
  std::int64_t code_bytes = 0;   // of a row
  int half_group = 2;            // N of the codes' pattern (2N-2):2N
};

// Writes the blocks of these rows, whose elements have schedule.element_bytes, ceil(rows / 64) of them,
// [blocks, schedule.block_bytes()]: rows and lanes that do not exist are zeros. Returns a cudaError_t.
int format_fragments(const StoredRows& rows, const Schedule& schedule, std::uint8_t* blocks, void* stream);

}  // namespace slidesparse::sm90
