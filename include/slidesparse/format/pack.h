#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "slidesparse/core/dtype.h"
#include "slidesparse/format/pattern.h"

namespace slidesparse {

// A packed weight matrix that belongs to somebody else. Row r's kept values are
// values[r * values_per_row ...] in lane order; its mask codes are codes[r * code_bytes_per_row ...], groups
// ascending, least significant bit first (docs/format.md).
struct PackedView {
  Pattern pattern;
  DType dtype = DType::kI8;             // 1- or 2-byte element types
  std::int64_t rows = 0;                // N_out
  std::int64_t k = 0;                   // input channels
  const void* values = nullptr;         // [rows, pattern.values_per_row(k)]
  const std::uint8_t* codes = nullptr;  // [rows, pattern.code_bytes_per_row(k)]; null for dense

  std::int64_t value_bytes() const {
    return rows * pattern.values_per_row(k) * static_cast<std::int64_t>(dtype_size(dtype));
  }
  std::int64_t code_bytes() const { return rows * pattern.code_bytes_per_row(k); }
};

// Where a row breaks the pattern.
struct PatternViolation {
  std::int64_t row = 0;
  std::int64_t group = 0;
  int non_zeros = 0;  // how many the group has; pattern.kept() are allowed
  std::string lanes;  // "0,1,2,4,5,6,7", lanes within the group
};

// Counts of one pack call.
struct PackReport {
  std::int64_t non_zeros = 0;
  std::int64_t negative_zeros_dropped = 0;  // -0.0 lanes that come back as +0.0
  PackReport& operator+=(const PackReport& other) {
    non_zeros += other.non_zeros;
    negative_zeros_dropped += other.negative_zeros_dropped;
    return *this;
  }
};

// The functions below work on the calling thread and keep no state: disjoint rows may be given to many
// threads. They choose their instructions by active_isa() (core/cpu.h); the bytes do not depend on it. Any
// other dtype than I8, F8_E4M3, F16 and BF16 is refused with kInput.

// Packs `rows` rows of k elements (row stride `ld` elements, `ld` >= k): `values` receives rows *
// values_per_row(k) elements, `codes` rows * code_bytes_per_row(k) bytes (all of them are written, unused
// bits are 0, and nothing behind them). Keeps all non-zeros, then -0.0 lanes, then +0.0 lanes, lowest first
// (docs/format.md, "Kept lanes"). Throws kInput with row, group and lanes when a group has more than
// pattern.kept() non-zeros; rows before it are written then. Row numbers start at `first_row` and `what`
// names the tensor in the message. Dense copies the rows; `codes` may be null.
PackReport pack_rows(Pattern pattern, DType dtype, const void* dense, std::int64_t rows, std::int64_t k,
                     std::int64_t ld, void* values, std::uint8_t* codes, std::int64_t first_row = 0,
                     const std::string& what = "matrix");

// The inverse, for rows row_begin .. row_begin + rows - 1 of the matrix: writes rows * k elements with row
// stride `ld` from `dense` on; dropped lanes become zero bytes, lanes beyond k are not written. Throws kInput
// for a code that names no pair (row, group, code), for set bits behind the last code of a row, and for a
// tail group whose values at lanes >= k are not zero bytes.
void unpack_rows(const PackedView& packed, std::int64_t row_begin, std::int64_t rows, void* dense,
                 std::int64_t ld, const std::string& what = "matrix");

// Checks codes and tail values without writing anything; throws as unpack_rows does.
void validate_packed(const PackedView& packed, const std::string& what = "matrix");

// The first group in [rows, k] that has more non-zeros than the pattern allows, if any. -0.0 counts as zero.
std::optional<PatternViolation> find_violation(Pattern pattern, DType dtype, const void* dense,
                                               std::int64_t rows, std::int64_t k, std::int64_t ld);

// The tightest pattern of the list, in the order 2:4, 4:6 .. 14:16, that all rows obey; dense when none.
Pattern find_pattern(DType dtype, const void* dense, std::int64_t rows, std::int64_t k, std::int64_t ld);

}  // namespace slidesparse
