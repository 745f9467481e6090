#pragma once

#include <cstdint>
#include <vector>

#include "gemm/backend.h"
#include "slidesparse/format/split.h"

namespace slidesparse {

// Fills `count` elements with finite random values.
void fill_random_values(DType dtype, std::byte* data, std::int64_t count, std::uint64_t seed);

// A permutation of split weights: any channels may be sparse, in any order; the dense ones ascend.
std::vector<std::int32_t> random_split_order(const SplitShape& shape, std::uint64_t seed);

// Element `index` of an output of type `out` (BF16 or F32).
float output_at(DType out, const void* data, std::int64_t index);

// One output of the problem, by the reference backend, rounded to its `out`: x is one token of K quantised
// (or BF16) values.
float reference_output(const GemmDesc& desc, const WeightSource& one_row, const void* x, float x_scale);

// How far a right output may be from the reference's. INT8 sums are exact: what is left is one step of the
// result's type and, for kernels that round twice, one of the product's before the bias (BF16, when there is
// one) is added, which may be much larger than the result. FP8 and BF16: |x| |w| bounds the sum of the
// products' magnitudes; FP32 adds in at least eight parts. `short_sums`: tensor cores keep about 14 bits
// within a chain of instructions of 32 products, so that up to 2^-13 of a partial sum is lost at each;
// partial sums are around |x| |w| / sqrt(K).
double output_tolerance(const GemmDesc& desc, const KernelDesc& kernel, const WeightSource& one_row,
                        const void* x, float x_scale, double expected, bool short_sums);

}  // namespace slidesparse
