#include "core/tensor.h"

#include "core/fail.h"

namespace slidesparse {

TensorView TensorView::contiguous(void* data, DType dtype, const Shape& shape, Device device) {
  TensorView view{data, dtype, shape, {}, device};
  std::int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    view.strides[static_cast<std::size_t>(i)] = stride;
    stride *= shape[i];
  }
  return view;
}

bool TensorView::is_contiguous() const {
  std::int64_t expected = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (dim(i) != 1 && stride(i) != expected) return false;
    expected *= dim(i);
  }
  return true;
}

std::int64_t TensorView::byte_size() const {
  return shape.count() * static_cast<std::int64_t>(dtype_size(dtype));
}

TensorView TensorView::rows(std::int64_t begin, std::int64_t count) const {
  require(rank() > 0 && begin >= 0 && count >= 0 && begin + count <= dim(0),
          "rows [{}, {}) of a tensor of shape {}", begin, begin + count, shape.to_string());
  TensorView view = *this;
  view.data =
      static_cast<std::byte*>(data) + begin * stride(0) * static_cast<std::int64_t>(dtype_size(dtype));
  std::array<std::int64_t, Shape::kMaxRank> dims{};
  for (int i = 0; i < rank(); ++i) dims[static_cast<std::size_t>(i)] = dim(i);
  dims[0] = count;
  view.shape = Shape(std::span<const std::int64_t>(dims.data(), static_cast<std::size_t>(rank())));
  return view;
}

}  // namespace slidesparse
