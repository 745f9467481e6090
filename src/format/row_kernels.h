#pragma once

#include <cstdint>
#include <vector>

#include "core/cpu.h"

namespace slidesparse {

// The three loops over the elements of one row that packing is made of. Bit j of word w of a mask stands for
// lane 64 w + j. Groups are unknown here: the masks carry everything a pattern says, so one set of loops
// serves all patterns. Elements are opaque; a set bit outside `magnitude` alone (a sign) makes a negative
// zero.
struct RowKernels {
  // Writes ceil(k / 64) words of each mask: any = lanes whose bits are not all zero, real = lanes with a bit
  // inside `magnitude`. Returns the number of lanes in `real`.
  std::int64_t (*scan)(const void* row, std::int64_t k, unsigned magnitude, std::uint64_t* any,
                       std::uint64_t* real);

  // Writes the elements of the lanes in `keep`, ascending, to values[0 .. count): exactly `count` lanes are
  // set, in the first `words` words. Lanes >= k are zero. Nothing behind values[count) is touched.
  void (*compress)(const void* row, std::int64_t k, const std::uint64_t* keep, std::int64_t words,
                   void* values, std::int64_t count);

  // Writes k elements: lane i takes the next value when it is in `keep`, zero otherwise. Reads at most
  // values[0 .. count).
  void (*expand)(const void* values, std::int64_t count, const std::uint64_t* keep, void* row,
                 std::int64_t k);
};

// The loops for elements of 1 or 2 bytes. All sets give the same bytes.
const RowKernels& row_kernels(Isa isa, std::size_t element_size);

const RowKernels& portable_row_kernels(std::size_t element_size);
const RowKernels& avx2_row_kernels(std::size_t element_size);  // AVX2 and BMI2: pext and pdep
const RowKernels& avx512_row_kernels(
    std::size_t element_size);  // AVX-512 BW and VBMI2: vpcompress and vpexpand

}  // namespace slidesparse
