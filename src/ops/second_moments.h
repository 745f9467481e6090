#pragma once

#include "core/device.h"
#include "core/tensor.h"

namespace slidesparse {

// What pruning needs to know of a linear's input x [m, k] BF16 (row stride free): sum [k] F32 gets the sum
// over rows of x_c^2 added, sum [k, k] F32 the lower triangle of x^T x. Products are summed in FP32 or wider.
void add_second_moments(const Context& context, const TensorView& x, const TensorView& sum);
// Arena bytes that it takes.
std::int64_t second_moments_workspace(std::int64_t m, std::int64_t k, bool full);

}  // namespace slidesparse
