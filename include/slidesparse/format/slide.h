#pragma once

#include <cstdint>

#include "slidesparse/core/dtype.h"
#include "slidesparse/format/pack.h"
#include "slidesparse/format/pattern.h"

namespace slidesparse {

// Sliding (arXiv 2603.05232, section 3; our docs/format.md): window j of a group covers lanes 2j .. 2j+3 and
// holds slots 2j and 2j+1, so the 2:4-compressed values of the slid matrix are the kept values in order and
// only the metadata is new: the 2-bit index of slot i is s_i - 2 * floor(i / 2).

// Bytes of 2-bit metadata of one row: values_per_row(k) / 4, rounded up.
constexpr std::int64_t slide_metadata_bytes_per_row(Pattern pattern, std::int64_t k) {
  return (pattern.values_per_row(k) + 3) / 4;
}

// Writes the metadata of packed rows, least significant bits first: [rows, slide_metadata_bytes_per_row]. The
// slid 2:4 values are packed.values itself. Throws kInput for a bad code and for a dense pattern.
void slide_metadata(const PackedView& packed, std::uint8_t* metadata);

// The inverse: codes [rows, pattern.code_bytes_per_row(k)] from 2-bit metadata; throws kInput with row and
// group for metadata that no mask makes, and for a dense pattern.
void codes_from_metadata(Pattern pattern, std::int64_t rows, std::int64_t k, const std::uint8_t* metadata,
                         std::uint8_t* codes);

// Expands slid 2:4 values + metadata to the matrix [rows, lifted_k(k)], contiguous, that a 2:4 GEMM
// multiplies (tests, oracles); elements of 1 or 2 bytes. Dense copies. Throws kInput for metadata that no
// mask makes.
void expand_slid(Pattern pattern, DType dtype, std::int64_t rows, std::int64_t k, const void* values,
                 const std::uint8_t* metadata, void* slid);

// Input channel that lifted lane o reads: g' = o / 4(N-1), r = o mod 4(N-1), g' * 2N + 2 (r / 4) + r % 4.
constexpr std::int64_t lift_source(Pattern pattern, std::int64_t o) {
  if (pattern.is_dense()) return o;
  const std::int64_t width = 4 * (pattern.half_group() - 1);
  const std::int64_t r = o % width;
  return o / width * pattern.group() + 2 * (r / 4) + r % 4;
}

// Lifts rows of activations: out[m, o] = x[m, lift_source(o)], 0 where that lane is >= k. x [m, k] with row
// stride ldx, out [m, lifted_k(k)] contiguous; any dtype of 1, 2 or 4 bytes.
void lift_rows(Pattern pattern, DType dtype, const void* x, std::int64_t m, std::int64_t k, std::int64_t ldx,
               void* out);

}  // namespace slidesparse
