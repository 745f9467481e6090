#include "ops/second_moments.h"

#include "core/buffer.h"
#include "core/fail.h"
#include "core/linear_algebra.h"
#include "core/numeric.h"
#include "core/parallel.h"
#include "ops/checks.h"

namespace slidesparse {
namespace {

void add_squares(const TensorView& x, float* sum) {
  parallel_for(x.dim(1), 64, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> squares(static_cast<std::size_t>(end - begin), 0.0);
    for (std::int64_t r = 0; r < x.dim(0); ++r) {
      const std::uint16_t* row = x.as<std::uint16_t>() + r * x.stride(0);
      for (std::int64_t c = begin; c < end; ++c) {
        const auto value = static_cast<double>(bf16_to_float(row[c]));
        squares[static_cast<std::size_t>(c - begin)] += value * value;
      }
    }
    for (std::int64_t c = begin; c < end; ++c)
      sum[c] += static_cast<float>(squares[static_cast<std::size_t>(c - begin)]);
  });
}

}  // namespace

std::int64_t second_moments_workspace(std::int64_t m, std::int64_t k, bool full) {
  return full ? m * k * static_cast<std::int64_t>(sizeof(float)) +
                    static_cast<std::int64_t>(Buffer::kAlignment)
              : 0;
}

void add_second_moments(const Context& context, const TensorView& x, const TensorView& sum) {
  check_device("add_second_moments", context);
  check_matrix("add_second_moments", x, DType::kBF16);
  const std::int64_t k = x.dim(1);
  require(sum.dtype == DType::kF32 && sum.is_contiguous() && sum.dim(0) == k &&
              (sum.rank() == 1 || (sum.rank() == 2 && sum.dim(1) == k)),
          "second moments {} of {} input channels", sum.shape.to_string(), k);
  if (sum.rank() == 1) {
    add_squares(x, sum.as<float>());
    return;
  }
  Arena::Scope scope(*context.arena);
  auto* values = context.arena->allocate<float>(x.dim(0) * k);
  parallel_for(x.dim(0), 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const std::uint16_t* row = x.as<std::uint16_t>() + r * x.stride(0);
      for (std::int64_t c = 0; c < k; ++c) values[r * k + c] = bf16_to_float(row[c]);
    }
  });
  add_gram(x.dim(0), k, values, k, sum.as<float>());
}

}  // namespace slidesparse
