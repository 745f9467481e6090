#pragma once

#include "core/device.h"
#include "core/fail.h"
#include "core/tensor.h"

// Promises that the callers of ops keep; breaking one is kInternal.
namespace slidesparse {

inline void check_device(const char* op, const Context& context) {
  if (context.device.kind != DeviceKind::kCpu)
    fail(ErrorKind::kUnsupported, "{}: only the CPU is implemented", op);
}

// A row-major matrix [m, width] with free row stride.
inline void check_matrix(const char* op, const TensorView& x, DType dtype) {
  require(x.dtype == dtype && x.rank() == 2 && (x.dim(1) <= 1 || x.stride(1) == 1) && x.stride(0) >= 0,
          "{}: a {} matrix with contiguous rows is needed, found {} {}", op, dtype_name(dtype),
          dtype_name(x.dtype), x.shape.to_string());
}

// BF16 [m, heads, head_dim], contiguous within a head.
inline void check_heads(const char* op, const TensorView& x) {
  require(x.dtype == DType::kBF16 && x.rank() == 3 && x.stride(2) == 1,
          "{}: BF16 [tokens, heads, head_dim] is needed, found {} {}", op, dtype_name(x.dtype),
          x.shape.to_string());
}

}  // namespace slidesparse
