#include "gemm/random_problem.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/checked.h"
#include "core/fail.h"
#include "core/numeric.h"
#include "core/parallel.h"
#include "core/random.h"
#include "gemm/backends/common.h"
#include "slidesparse/format/codes.h"

namespace slidesparse {
namespace {

// Random codes that name a pair, for `rows` rows of `groups` groups.
void fill_codes(Pattern pattern, std::uint8_t* codes, std::int64_t rows, std::int64_t groups,
                std::uint64_t seed) {
  const std::int64_t stride = ceil_div(groups * pattern.code_bits(), 8);
  const auto count = static_cast<std::uint64_t>(code_count(pattern));
  parallel_for(rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      std::uint8_t* out = codes + row * stride;
      std::memset(out, 0, static_cast<std::size_t>(stride));
      for (std::int64_t g = 0; g < groups; ++g) {
        const auto code = static_cast<unsigned>(
            (random_bits(seed, static_cast<std::uint64_t>(row * groups + g)) >> 32) * count >> 32);
        const std::int64_t bit = g * pattern.code_bits();
        out[bit / 8] = static_cast<std::uint8_t>(out[bit / 8] | code << (bit % 8));
        if (bit % 8 + pattern.code_bits() > 8) {
          out[bit / 8 + 1] = static_cast<std::uint8_t>(out[bit / 8 + 1] | code >> (8 - bit % 8));
        }
      }
    }
  });
}

// Lanes of a tail group that do not exist hold zero, as in a file.
void clear_tails(const GemmDesc& desc, std::byte* values, const std::uint8_t* codes) {
  const std::int64_t tail = desc.k % desc.pattern.group();
  if (tail == 0) return;
  const std::int64_t a_row = desc.pattern.values_per_row(desc.k);
  const std::int64_t groups = desc.pattern.groups(desc.k);
  const auto size = static_cast<std::int64_t>(dtype_size(desc.w));
  for (std::int64_t row = 0; row < desc.n; ++row) {
    const DroppedPair dropped = decode_pair(read_code(codes + row * desc.pattern.code_bytes_per_row(desc.k),
                                                      desc.pattern.code_bits(), groups - 1));
    std::int64_t at = row * a_row + (groups - 1) * desc.pattern.kept();
    for (int lane = 0; lane < desc.pattern.group(); ++lane) {
      if (lane == dropped.a || lane == dropped.b) continue;
      if (lane >= tail) std::memset(values + at * size, 0, static_cast<std::size_t>(size));
      ++at;
    }
  }
}

double norm(DType dtype, const void* data, std::int64_t count) {
  double squares = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const double value = dtype == DType::kF8E4M3 ? e4m3_to_float(static_cast<const std::uint8_t*>(data)[i])
                                                 : bf16_to_float(static_cast<const std::uint16_t*>(data)[i]);
    squares += value * value;
  }
  return std::sqrt(squares);
}

// Distance from one BF16 number to the next around `value`.
double bf16_ulp(double value) {
  const double magnitude = std::max(std::fabs(value), 0x1p-126);
  return std::exp2(std::floor(std::log2(magnitude)) - 7);
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

std::int64_t random_weight_bytes(const GemmDesc& desc) {
  return desc.n * (stored_values_per_row(desc) * static_cast<std::int64_t>(dtype_size(desc.w)) +
                   stored_code_bytes_per_row(desc));
}

RandomWeights::RandomWeights(const GemmDesc& desc, std::uint64_t seed, std::int64_t copies)
    : desc_(desc), copies_(copies) {
  const std::int64_t values = desc.n * stored_values_per_row(desc);
  value_bytes_ = values * static_cast<std::int64_t>(dtype_size(desc.w));
  code_bytes_ = desc.n * stored_code_bytes_per_row(desc);
  values_ = Buffer(static_cast<std::size_t>(value_bytes_ * copies_));
  codes_ = Buffer(static_cast<std::size_t>(code_bytes_ * copies_));
  fill_random_values(desc.w, values_.data(), values, seed);
  if (!desc.pattern.is_dense()) {
    fill_codes(desc.pattern, codes_.as<std::uint8_t>(), desc.n, desc.pattern.groups(desc.k), seed + 1);
    clear_tails(desc, values_.data(), codes_.as<std::uint8_t>());
  }
  for (std::int64_t copy = 1; copy < copies_; ++copy) {
    std::memcpy(values_.data() + copy * value_bytes_, values_.data(), static_cast<std::size_t>(value_bytes_));
    std::memcpy(codes_.data() + copy * code_bytes_, codes_.data(), static_cast<std::size_t>(code_bytes_));
  }
  for (std::int64_t n = 0; n < desc.n; ++n) {
    scales_.push_back(0x1p-8f * (1.0f + random_uniform(seed + 2, static_cast<std::uint64_t>(n))));
    bias_.push_back(float_to_bf16(random_normal(seed + 3, static_cast<std::uint64_t>(n))));
  }
}

WeightSource RandomWeights::source(std::int64_t copy, std::int64_t row, std::int64_t rows) const {
  WeightSource source;
  source.layout = desc_.layout;
  source.pattern = desc_.pattern;
  source.dtype = desc_.w;
  source.n = rows;
  source.k = desc_.k;
  source.values = values_.data() + copy * value_bytes_ + row * (value_bytes_ / desc_.n);
  if (code_bytes_ != 0)
    source.codes = codes_.as<std::uint8_t>() + copy * code_bytes_ + row * (code_bytes_ / desc_.n);
  if (desc_.w != DType::kBF16) {
    source.scales = scales_.data() + row;
    source.scale_dtype = DType::kF32;
  }
  if (desc_.bias) {
    source.bias = bias_.data() + row;
    source.bias_dtype = DType::kBF16;
  }
  return source;
}

float reference_output(const GemmDesc& desc, const WeightSource& one_row, const void* x, float x_scale) {
  const Backend& reference = backend_named("reference");
  const KernelDesc kernel = reference.kernels().front();
  GemmDesc one = desc;
  one.m = one.n = 1;
  one.ldx = one.ldout = 0;
  one.out = DType::kBF16;
  one.device = {};
  const GemmPlan plan = reference.plan(one, kernel);
  Arena arena(static_cast<std::size_t>(plan.workspace_bytes));
  Context context;
  context.arena = &arena;
  std::uint16_t expected = 0;
  reference.run(plan, *reference.prepare_weights(one_row, one, kernel),
                {x, desc.x == DType::kBF16 ? nullptr : &x_scale, &expected}, context);
  return bf16_to_float(expected);
}

double output_tolerance(const GemmDesc& desc, const KernelDesc& kernel, const WeightSource& one_row,
                        const void* x, float x_scale, double expected, bool short_sums) {
  double roundings = bf16_ulp(expected);
  if (kernel.two_roundings) {
    const double bias =
        one_row.bias == nullptr ? 0 : bf16_to_float(*static_cast<const std::uint16_t*>(one_row.bias));
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
