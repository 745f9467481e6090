#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "format/row_kernels.h"
#include "slidesparse/core/dtype.h"
#include "slidesparse/format/pack.h"
#include "slidesparse/format/pattern.h"

namespace slidesparse {

// Bits of an element that make it differ from zero: all for integers, all but the sign for floating point.
// Throws kInput for a dtype that cannot be packed.
unsigned magnitude_bits(DType dtype);

// Which lanes of one row are kept, and the codes that say so, for one pattern, dtype and row length. Owns
// scratch of about 3/8 byte a lane; one object per thread. Dense is not its business.
class RowCodec {
 public:
  RowCodec(Pattern pattern, DType dtype, std::int64_t k);

  // Packs one row [k] into values [pattern.values_per_row(k)] and codes [pattern.code_bytes_per_row(k)] and
  // adds to `report`. Returns the first group with too many non-zeros, after which values and codes mean
  // nothing.
  std::optional<std::int64_t> pack(const void* row, void* values, std::uint8_t* codes, PackReport& report);

  // The inverse: writes row [k], dropped lanes as zero bytes. Throws kInput, naming `what` and `row_number`,
  // for a code that names no pair, set bits behind the last code, and values in lanes >= k.
  void unpack(const void* values, const std::uint8_t* codes, void* row, std::int64_t row_number,
              const std::string& what);
  // The checks of unpack without its writes.
  void validate(const void* values, const std::uint8_t* codes, std::int64_t row_number,
                const std::string& what);

  // The first group of the row with too many non-zeros.
  std::optional<std::int64_t> find_violation(const void* row);
  // Lanes of `group` that held non-zeros in the row last given to pack or find_violation, ascending.
  std::vector<int> non_zero_lanes(std::int64_t group) const;

 private:
  Pattern pattern_;
  std::size_t element_size_;
  unsigned magnitude_;
  std::int64_t k_;
  std::int64_t groups_;
  const RowKernels& kernels_;
  std::vector<std::uint64_t> any_;   // lanes whose bits are not all zero
  std::vector<std::uint64_t> real_;  // lanes that are not +-0
  std::vector<std::uint64_t> keep_;  // lanes that are packed
};

}  // namespace slidesparse
