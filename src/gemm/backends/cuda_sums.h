#pragma once

#include <library_types.h>

#include "slidesparse/core/dtype.h"

namespace slidesparse {

// What apply_tail() calls the type in which a library writes its sums: INT32, FP32 or BF16.
inline DType sums_dtype(cudaDataType type) {
  return type == CUDA_R_32I ? DType::kI32 : type == CUDA_R_32F ? DType::kF32 : DType::kBF16;
}

}  // namespace slidesparse
