#include "gemm/problem.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/buffer.h"
#include "core/numeric.h"
#include "core/random.h"
#include "slidesparse/format/pack.h"
#include "slidesparse/format/split.h"

namespace slidesparse {
namespace {

// Bits of a random element that is a finite number; integers reach -128.
unsigned random_element(DType dtype, Random& random) {
  if (dtype == DType::kI8) return random.below(16) == 0 ? 0x80u : static_cast<unsigned>(random.below(256));
  if (dtype == DType::kF8E4M3) {
    const auto bits = static_cast<unsigned>(random.below(256));
    return (bits & 0x7fu) == 0x7fu ? 0x01u : bits;
  }
  return float_to_bf16(random.normal());
}

void put(DType dtype, std::byte* data, std::int64_t i, unsigned bits) {
  if (dtype_size(dtype) == 1) {
    reinterpret_cast<std::uint8_t*>(data)[i] = static_cast<std::uint8_t>(bits);
  } else {
    reinterpret_cast<std::uint16_t*>(data)[i] = static_cast<std::uint16_t>(bits);
  }
}

float get(DType dtype, const std::byte* data, std::int64_t i) {
  switch (dtype) {
    case DType::kI8:
      return reinterpret_cast<const std::int8_t*>(data)[i];
    case DType::kF8E4M3:
      return e4m3_to_float(reinterpret_cast<const std::uint8_t*>(data)[i]);
    default:
      return bf16_to_float(reinterpret_cast<const std::uint16_t*>(data)[i]);
  }
}

// Clears lanes of one row until `pattern` allows it; `lanes` names them in the order in which groups are
// formed.
void thin_out(Pattern pattern, DType dtype, std::byte* row, std::span<const std::int32_t> lanes,
              Random& random) {
  const std::int64_t group = pattern.group();
  for (std::size_t first = 0; first < lanes.size(); first += static_cast<std::size_t>(group)) {
    for (int dropped = 0; dropped < 2;) {
      const auto lane = first + static_cast<std::size_t>(random.below(group));
      if (lane < lanes.size()) put(dtype, row, lanes[lane], 0);
      ++dropped;
    }
    // The same lane may have been drawn twice: make sure of the number.
    std::int64_t non_zeros = 0;
    for (std::size_t i = first; i < std::min(lanes.size(), first + static_cast<std::size_t>(group)); ++i) {
      if (get(dtype, row, lanes[i]) != 0 && ++non_zeros > pattern.kept()) put(dtype, row, lanes[i], 0);
    }
  }
}

}  // namespace

Problem::Problem(const GemmDesc& desc, std::uint64_t seed) : desc_(desc) {
  Random random(seed);
  const auto size = dtype_size(desc.w);
  const std::int64_t ldx = desc.ldx != 0 ? desc.ldx : desc.k;
  // The last row ends at its last element, whatever the stride.
  x_ = Guarded(desc.m == 0 ? 0 : static_cast<std::size_t>((desc.m - 1) * ldx + desc.k) * size);
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(x_.size() / size); ++i)
    put(desc.x, x_.data(), i, random_element(desc.x, random));
  dense_ = Guarded(static_cast<std::size_t>(desc.n * desc.k) * size);
  for (std::int64_t i = 0; i < desc.n * desc.k; ++i)
    put(desc.w, dense_.data(), i, random_element(desc.w, random));

  perm_.resize(static_cast<std::size_t>(desc.k));
  std::iota(perm_.begin(), perm_.end(), 0);
  const SplitShape shape = split_shape(desc.layout == Layout::kSplit ? desc.pattern : Pattern(), desc.k);
  if (desc.layout == Layout::kSplit) {
    for (std::int64_t i = desc.k - 1; i > 0; --i)
      std::swap(perm_[static_cast<std::size_t>(i)], perm_[static_cast<std::size_t>(random.below(i + 1))]);
    std::sort(perm_.begin() + shape.sparse, perm_.end());
  }
  for (std::int64_t row = 0; row < desc.n; ++row) {
    std::byte* at = dense_.data() + static_cast<std::size_t>(row * desc.k) * size;
    if (desc.layout == Layout::kPacked) thin_out(desc.pattern, desc.w, at, perm_, random);
    if (desc.layout == Layout::kSplit) {
      thin_out(Pattern::of_half_group(2), desc.w, at,
               std::span(perm_).first(static_cast<std::size_t>(shape.sparse)), random);
    }
  }
  if (desc.layout == Layout::kPacked) {
    values_ = Guarded(static_cast<std::size_t>(desc.n * desc.pattern.values_per_row(desc.k)) * size);
    codes_ = Guarded(static_cast<std::size_t>(desc.n * desc.pattern.code_bytes_per_row(desc.k)));
    pack_rows(desc.pattern, desc.w, dense_.data(), desc.n, desc.k, desc.k, values_.data(),
              codes_.as<std::uint8_t>());
  } else if (desc.layout == Layout::kSplit) {
    values_ = Guarded(static_cast<std::size_t>(desc.n * shape.values_per_row()) * size);
    codes_ = Guarded(static_cast<std::size_t>(desc.n * shape.code_bytes_per_row()));
    split_pack_rows(shape, perm_, desc.w, dense_.data(), desc.n, desc.k, values_.data(),
                    codes_.as<std::uint8_t>());
  }
  x_scale_ = Guarded(static_cast<std::size_t>(desc.m) * sizeof(float));
  for (std::int64_t m = 0; m < desc.m; ++m)
    x_scale_.as<float>()[m] = m % 5 == 4 ? 0.0f : 0.01f + random.uniform();
  for (std::int64_t n = 0; n < desc.n; ++n) {
    scales_.push_back(float_to_bf16(0.001f + 0.01f * random.uniform()));
    bias_.push_back(random.normal());
  }
}

WeightSource Problem::dense_source() const {
  WeightSource source;
  source.dtype = desc_.w;
  source.n = desc_.n;
  source.k = desc_.k;
  source.values = dense_.data();
  if (desc_.w != DType::kBF16) source.scales = scales_.data();
  if (desc_.bias) {
    source.bias = bias_.data();
    source.bias_dtype = DType::kF32;
  }
  return source;
}

WeightSource Problem::source() const {
  WeightSource source = dense_source();
  source.layout = desc_.layout;
  source.pattern = desc_.pattern;
  if (desc_.layout == Layout::kDense) return source;
  source.values = values_.data();
  source.codes = codes_.as<std::uint8_t>();
  if (desc_.layout == Layout::kSplit) source.perm = perm_;
  return source;
}

GemmDesc Problem::dense_desc() const {
  GemmDesc desc = desc_;
  desc.layout = Layout::kDense;
  desc.pattern = Pattern();
  return desc;
}

GemmArgs Problem::args(void* out) const {
  return {x_.data(), desc_.x == DType::kBF16 ? nullptr : x_scale_.as<float>(), out};
}

std::vector<float> Problem::run(const Backend& backend, const KernelDesc& kernel, const GemmDesc& desc,
                                const WeightSource& source) const {
  const std::int64_t ldout = desc.ldout != 0 ? desc.ldout : desc.n;
  const auto size = static_cast<std::int64_t>(dtype_size(desc.out));
  const Guarded out(desc.m == 0 ? 0 : static_cast<std::size_t>(((desc.m - 1) * ldout + desc.n) * size));
  std::memset(out.data(), 0xff, out.size());  // NaN in both types
  const auto weights = backend.prepare_weights(source, desc, kernel);
  const GemmPlan plan = backend.plan(desc, kernel);
  Arena arena(static_cast<std::size_t>(plan.workspace_bytes));
  {
    const Arena::Scope scope(arena);
    const auto bytes = static_cast<std::size_t>(plan.workspace_bytes);
    std::memset(arena.allocate(bytes), 0xff, bytes);
  }
  Context context;
  context.arena = &arena;
  backend.run(plan, *weights, args(out.data()), context);
  std::vector<float> result;
  for (std::int64_t m = 0; m < desc.m; ++m) {
    for (std::int64_t n = 0; n < ldout && m * ldout + n < static_cast<std::int64_t>(out.size()) / size; ++n) {
      const float value = desc.out == DType::kF32 ? out.as<float>()[m * ldout + n]
                                                  : bf16_to_float(out.as<std::uint16_t>()[m * ldout + n]);
      if (n < desc.n) {
        result.push_back(value);
      } else {
        EXPECT_TRUE(std::isnan(value)) << kernel.name << " wrote between rows at " << m << ", " << n;
      }
    }
  }
  return result;
}

std::vector<float> Problem::reference() const {
  const Backend& backend = backend_named("reference");
  return run(backend, backend.kernels().front());
}

float Problem::weight(std::int64_t n, std::int64_t k) const {
  return get(desc_.w, dense_.data(), n * desc_.k + k);
}

float Problem::activation(std::int64_t m, std::int64_t k) const {
  return get(desc_.x, x_.data(), m * (desc_.ldx != 0 ? desc_.ldx : desc_.k) + k);
}

std::vector<double> Problem::norms() const {
  std::vector<double> norms;
  for (std::int64_t m = 0; m < desc_.m; ++m) {
    for (std::int64_t n = 0; n < desc_.n; ++n) {
      double norm = 0;
      for (std::int64_t k = 0; k < desc_.k; ++k) norm += std::fabs(double{activation(m, k)} * weight(n, k));
      if (desc_.w != DType::kBF16)
        norm *= double{x_scale_.as<float>()[m]} * bf16_to_float(scales_[static_cast<std::size_t>(n)]);
      if (desc_.bias) norm += std::fabs(bias_[static_cast<std::size_t>(n)]);
      norms.push_back(norm);
    }
  }
  return norms;
}

double tolerance(const GemmDesc& desc, double norm, double expected) {
  // FP32 sums in at least eight parts: an ulp for each addition of a part, and a few for joining them and
  // scaling.
  const double additions = static_cast<double>(desc.k) / 8 + 24;
  const double rounding = desc.out == DType::kBF16 ? std::fabs(expected) * 0x1p-7 : 0;
  return additions * 0x1p-24 * norm + rounding + 0x1p-120;
}

}  // namespace slidesparse
