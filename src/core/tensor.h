#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/device.h"
#include "core/shape.h"
#include "slidesparse/core/dtype.h"

namespace slidesparse {

// A tensor that belongs to somebody else: pointer, type, shape, strides (in elements) and device.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;
  std::array<std::int64_t, Shape::kMaxRank> strides{};
  Device device;

  // A contiguous (row-major) view.
  static TensorView contiguous(void* data, DType dtype, const Shape& shape, Device device = {});
  // Read-only data under the same type; the callee's contract says that it does not write.
  static TensorView contiguous(const void* data, DType dtype, const Shape& shape, Device device = {}) {
    return contiguous(const_cast<void*>(data), dtype, shape, device);
  }

  int rank() const { return shape.rank(); }
  std::int64_t dim(int i) const { return shape[i]; }
  std::int64_t stride(int i) const { return strides[static_cast<std::size_t>(i)]; }
  bool is_contiguous() const;
  std::int64_t byte_size() const;  // of a contiguous view
  // Rows [begin, begin + count) of the first dimension.
  TensorView rows(std::int64_t begin, std::int64_t count) const;

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace slidesparse
