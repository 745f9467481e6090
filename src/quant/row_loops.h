#pragma once

#include <cstdint>

#include "core/cpu.h"
#include "slidesparse/core/dtype.h"

namespace slidesparse {

// The loops over one row of weights. One source text is compiled for every instruction set, so all of them
// give the same bits; the compiler vectorises.
struct QuantRowLoops {
  // The largest magnitude of k weights, as the bits of the source dtype without the sign. Bits order like
  // values, and NaN and infinity are larger than everything finite.
  std::uint32_t (*largest)(const void* row, std::int64_t k);
  // codes[i] = target(row[i] / scale), every intermediate rounded to the source dtype. `scale` > 0 is exact
  // in it.
  void (*to_int8)(const void* row, std::int64_t k, float scale, void* codes);
  void (*to_e4m3)(const void* row, std::int64_t k, float scale, void* codes);
};

// Loops for BF16, F16 or F32 weights; throws kInternal for other dtypes.
const QuantRowLoops& quant_row_loops(Isa isa, DType source);

}  // namespace slidesparse
