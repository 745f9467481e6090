#include "core/shape.h"

#include "core/checked.h"
#include "core/fail.h"

namespace slidesparse {

Shape::Shape(std::span<const std::int64_t> dims) {
  if (dims.size() > kMaxRank)
    fail_input("a tensor of rank {}: at most {} are supported", dims.size(), kMaxRank);
  for (const std::int64_t dim : dims) {
    if (dim < 0) fail_input("a tensor with the negative extent {}", dim);
    dims_[static_cast<std::size_t>(rank_++)] = dim;
  }
}

std::int64_t Shape::count() const {
  std::int64_t total = 1;
  for (const std::int64_t dim : dims()) {
    const auto product = checked_mul(total, dim);
    if (!product) fail_input("shape {} has more elements than fit in 63 bits", to_string());
    total = *product;
  }
  return total;
}

std::string Shape::to_string() const {
  return fmt::format("[{}]", fmt::join(dims(), ", "));
}

}  // namespace slidesparse
