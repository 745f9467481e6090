#include "gemm/random_problem.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/fail.h"
#include "core/numeric.h"
#include "core/parallel.h"
#include "core/random.h"
#include "gemm/backends/common.h"

namespace slidesparse {
namespace {

double norm(DType dtype, const void* data, std::int64_t count) {
  double squares = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const double value = dtype == DType::kF8E4M3 ? e4m3_to_float(static_cast<const std::uint8_t*>(data)[i])
                                                 : bf16_to_float(static_cast<const std::uint16_t*>(data)[i]);
    squares += value * value;
  }
  return std::sqrt(squares);
}

// Distance from one number of the type (BF16 or F32) to the next around `value`.
double ulp_of(DType dtype, double value) {
  const double magnitude = std::max(std::fabs(value), 0x1p-126);
  return std::exp2(std::floor(std::log2(magnitude)) - (dtype == DType::kF32 ? 23 : 7));
}
double bf16_ulp(double value) {
  return ulp_of(DType::kBF16, value);
}

}  // namespace

void fill_random_values(DType dtype, std::byte* data, std::int64_t count, std::uint64_t seed) {
  const std::int64_t per_word = dtype == DType::kBF16 ? 4 : 8;
  parallel_for(ceil_div(count, per_word), 4096, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t word = begin; word < end; ++word) {
      std::uint64_t bits = random_bits(seed, static_cast<std::uint64_t>(word));
      // The exponent's top bit off: E4M3 below 2, BF16 below 2, so that sums stay moderate and nothing is
      // NaN.
      if (dtype == DType::kF8E4M3) bits &= 0xbfbfbfbfbfbfbfbfull;
      if (dtype == DType::kBF16) bits = (bits & 0x80ff80ff80ff80ffull) | 0x3f003f003f003f00ull;
      const std::int64_t here = std::min(per_word, count - word * per_word);
      std::memcpy(data + word * 8, &bits, static_cast<std::size_t>(here) * dtype_size(dtype));
    }
  });
}

std::vector<std::int32_t> random_split_order(const SplitShape& shape, std::uint64_t seed) {
  std::vector<std::int32_t> perm(static_cast<std::size_t>(shape.k));
  std::iota(perm.begin(), perm.end(), 0);
  Random random(seed);
  for (std::int64_t i = shape.k - 1; i > 0; --i)
    std::swap(perm[static_cast<std::size_t>(i)], perm[static_cast<std::size_t>(random.below(i + 1))]);
  std::sort(perm.begin() + shape.sparse, perm.end());
  return perm;
}

float output_at(DType out, const void* data, std::int64_t index) {
  return out == DType::kF32 ? static_cast<const float*>(data)[index]
                            : bf16_to_float(static_cast<const std::uint16_t*>(data)[index]);
}

float reference_output(const GemmDesc& desc, const WeightSource& one_row, const void* x, float x_scale) {
  const Backend& reference = backend_named("reference");
  const KernelDesc kernel = reference.kernels().front();
  GemmDesc one = desc;
  one.m = one.n = 1;
  one.ldx = one.ldout = 0;
  one.device = {};
  const GemmPlan plan = reference.plan(one, kernel);
  Arena arena(static_cast<std::size_t>(plan.workspace_bytes));
  Context context;
  context.arena = &arena;
  float expected = 0;  // room for either type
  reference.run(plan, *reference.prepare_weights(one_row, one, kernel),
                {x, desc.x == DType::kBF16 ? nullptr : &x_scale, &expected}, context);
  return output_at(one.out, &expected, 0);
}

double output_tolerance(const GemmDesc& desc, const KernelDesc& kernel, const WeightSource& one_row,
                        const void* x, float x_scale, double expected, bool short_sums) {
  double roundings = ulp_of(desc.out, expected);
  if (kernel.two_roundings) {
    const double bias = one_row.bias == nullptr ? 0
                        : one_row.bias_dtype == DType::kBF16
                            ? bf16_to_float(*static_cast<const std::uint16_t*>(one_row.bias))
                            : *static_cast<const float*>(one_row.bias);
    roundings += bf16_ulp(expected - bias);
  }
  if (desc.x == DType::kI8) return roundings;
  double scale = norm(desc.x, x, desc.k) * norm(desc.x, one_row.values, stored_values_per_row(desc));
  if (desc.x != DType::kBF16) scale *= double{x_scale} * *static_cast<const float*>(one_row.scales);
  const auto k = static_cast<double>(desc.k);
  double sums = (k / 8 + 24) * 0x1p-24 * scale;
  if (short_sums && desc.x == DType::kF8E4M3) sums += std::sqrt(k) / 16 * 0x1p-13 * scale;
  return sums + roundings;
}

}  // namespace slidesparse
