#include "core/tensor.h"

#include <gtest/gtest.h>

#include <limits>

#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

TEST(Shape, CountsInCheckedArithmetic) {
  EXPECT_EQ(Shape({}).count(), 1);
  EXPECT_EQ(Shape({3, 0, 5}).count(), 0);
  EXPECT_EQ(Shape({65536, 37888}).count(), 2483027968);
  const std::int64_t huge = std::numeric_limits<std::int64_t>::max();
  EXPECT_THROW(Shape({huge, 2}).count(), Error);
  EXPECT_THROW(Shape({-1}), Error);
  EXPECT_THROW(Shape({1, 1, 1, 1, 1, 1, 1, 1, 1}), Error);
}

TEST(TensorView, RowsAndStrides) {
  float data[12] = {};
  const TensorView view = TensorView::contiguous(data, DType::kF32, {3, 4});
  EXPECT_TRUE(view.is_contiguous());
  EXPECT_EQ(view.byte_size(), 48);
  const TensorView last = view.rows(2, 1);
  EXPECT_EQ(last.data, data + 8);
  EXPECT_EQ(last.shape, Shape({1, 4}));
  EXPECT_THROW(view.rows(2, 2), Error);
  TensorView strided = view;
  strided.strides[0] = 6;
  EXPECT_FALSE(strided.is_contiguous());
}

TEST(DType, NamesAreTheirOwnInverse) {
  for (const DType dtype :
       {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kI8, DType::kU8, DType::kI32,
        DType::kI64, DType::kF64, DType::kBool, DType::kI16, DType::kF8E5M2}) {
    EXPECT_EQ(parse_dtype(dtype_name(dtype)), dtype);
  }
  EXPECT_EQ(parse_dtype("BF17"), std::nullopt);
  EXPECT_EQ(dtype_size(DType::kF8E4M3), 1u);
  EXPECT_EQ(dtype_size(DType::kBF16), 2u);
}

}  // namespace
}  // namespace slidesparse
