#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "slidesparse/format/pack.h"
#include "slidesparse/format/pattern.h"

namespace slidesparse {

// The split layout: the budget of (2N-2):2N spent as "4 of every 2N input channels 2:4, the rest dense".
// `perm` lists input channels: first the sparse ones in the order in which they form quads, then the dense
// ones ascending.
struct SplitShape {
  Pattern pattern;
  std::int64_t k = 0;
  std::int64_t sparse = 0;  // channels that are 2:4: a multiple of 64
  std::int64_t dense = 0;   // the rest; the part that a multiple of 32 does not cover is dense too

  std::int64_t values_per_row() const { return sparse / 2 + dense; }
  // 3 bits for each quad, rows byte-aligned: the codes of pattern 2:4 over `sparse` channels.
  std::int64_t code_bytes_per_row() const { return Pattern::of_half_group(2).code_bytes_per_row(sparse); }
};

// The largest sparse part that the budget of `pattern` wants and the multiples allow: floor(k * 4/2N / 64)
// * 64. Dense has none; 2:4 is all sparse but for the remainder.
SplitShape split_shape(Pattern pattern, std::int64_t k);

// Throws kInput unless perm is a permutation of 0 .. k-1 (message: first duplicate or out-of-range entry)
// whose dense part is ascending.
void validate_perm(const SplitShape& shape, std::span<const std::int32_t> perm, const std::string& what);

// Packs dense rows [rows, k] (stride ld): values [rows, values_per_row()] = the 2:4 kept values of the sparse
// channels in perm order, then the dense channels; codes [rows, code_bytes_per_row()]. Violations throw
// kInput with row, quad and channels.
PackReport split_pack_rows(const SplitShape& shape, std::span<const std::int32_t> perm, DType dtype,
                           const void* dense, std::int64_t rows, std::int64_t ld, void* values,
                           std::uint8_t* codes, std::int64_t first_row = 0,
                           const std::string& what = "matrix");

// The inverse, in original channel order: [rows, k], stride ld. Throws kInput for a damaged perm, before
// anything is written, and for bad codes with row and group (quad).
void split_unpack_rows(const SplitShape& shape, std::span<const std::int32_t> perm, DType dtype,
                       const void* values, const std::uint8_t* codes, std::int64_t rows, void* out,
                       std::int64_t ld, const std::string& what = "matrix");

}  // namespace slidesparse
