#include "gemm/backends/common.h"

#include <algorithm>
#include <charconv>

#include "core/checked.h"
#include "core/fail.h"
#include "core/numeric.h"
#include "core/text.h"
#include "slidesparse/format/split.h"

namespace slidesparse {
namespace {

// K * 128 * 128 has to stay below 2^31.
constexpr std::int64_t kLargestInt8K = (std::int64_t{1} << 17) - 1;

// Also an upper bound for every product of two sizes below, so that none can overflow.
constexpr std::int64_t kLargestElements = std::int64_t{1} << 56;

bool fits(std::int64_t rows, std::int64_t stride) {
  const auto elements = checked_mul(rows, stride);
  return elements && *elements <= kLargestElements;
}

}  // namespace

std::vector<float> to_floats(const void* data, DType dtype, std::int64_t count) {
  std::vector<float> out(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    float& value = out[static_cast<std::size_t>(i)];
    switch (dtype) {
      case DType::kF32:
        value = static_cast<const float*>(data)[i];
        break;
      case DType::kF16:
        value = f16_to_float(static_cast<const std::uint16_t*>(data)[i]);
        break;
      case DType::kBF16:
        value = bf16_to_float(static_cast<const std::uint16_t*>(data)[i]);
        break;
      default:
        fail(ErrorKind::kInternal, "scales and bias cannot be {}", dtype_name(dtype));
    }
  }
  return out;
}

Feasibility check_problem(const GemmDesc& desc) {
  if (desc.m < 0 || desc.n < 1 || desc.k < 1) {
    return Feasibility::no(fmt::format("M={} N={} K={} is no matrix product", desc.m, desc.n, desc.k));
  }
  if (desc.x != desc.w) {
    return Feasibility::no(
        fmt::format("x {} with w {}: both must have one type", dtype_name(desc.x), dtype_name(desc.w)));
  }
  if (desc.w != DType::kI8 && desc.w != DType::kF8E4M3 && desc.w != DType::kBF16) {
    return Feasibility::no(
        fmt::format("weights of {}: I8, F8_E4M3 and BF16 can be multiplied", dtype_name(desc.w)));
  }
  if (desc.out != DType::kBF16 && desc.out != DType::kF32) {
    return Feasibility::no(fmt::format("output of {}: BF16 and F32 can be written", dtype_name(desc.out)));
  }
  if (desc.layout == Layout::kSlid) return Feasibility::no("slid weights are for sparse tensor cores");
  if (desc.layout != Layout::kDense && desc.pattern.is_dense()) {
    return Feasibility::no(fmt::format("layout {} needs a pattern", layout_name(desc.layout)));
  }
  if ((desc.ldx != 0 && desc.ldx < desc.k) || (desc.ldout != 0 && desc.ldout < desc.n)) {
    return Feasibility::no(fmt::format("row strides {} and {} are shorter than K={} and N={}", desc.ldx,
                                       desc.ldout, desc.k, desc.n));
  }
  if (!fits(desc.n, desc.k) || !fits(desc.m, row_stride_x(desc)) || !fits(desc.m, row_stride_out(desc))) {
    return Feasibility::no(
        fmt::format("M={} N={} K={} needs more than 2^56 elements", desc.m, desc.n, desc.k));
  }
  if (desc.w == DType::kI8 && desc.k > kLargestInt8K) {
    return Feasibility::no(fmt::format("K={}: INT8 sums fit in 32 bits up to K={}", desc.k, kLargestInt8K));
  }
  return {};
}

Feasibility check_cpu_problem(const GemmDesc& desc) {
  if (desc.device.kind != DeviceKind::kCpu) return Feasibility::no("runs on the CPU only");
  return check_problem(desc);
}

void check_source(const WeightSource& source, const GemmDesc& desc) {
  const bool same = source.layout == desc.layout && source.dtype == desc.w && source.n == desc.n &&
                    source.k == desc.k && (desc.layout == Layout::kDense || source.pattern == desc.pattern);
  require(same, "weights {} {} {} [{}, {}] do not belong to {}", dtype_name(source.dtype),
          layout_name(source.layout), source.pattern.to_string(), source.n, source.k, desc.to_string());
  require(source.values != nullptr, "{}: no values", desc.to_string());
  require(source.codes != nullptr || stored_code_bytes_per_row(desc) == 0, "{}: no codes", desc.to_string());
  require((source.scales != nullptr) == (desc.w != DType::kBF16),
          "{}: scales belong to 8-bit weights, and only to them", desc.to_string());
  require((source.bias != nullptr) == desc.bias, "{}: bias is {} but was {}", desc.to_string(),
          source.bias != nullptr ? "there" : "missing", desc.bias ? "promised" : "not expected");
  require(!desc.bias || desc.bias_dtype != DType::kBF16 || source.bias_dtype == DType::kBF16,
          "{}: bias is {} but BF16 was promised", desc.to_string(), dtype_name(source.bias_dtype));
  if (desc.layout == Layout::kSplit) {
    require(static_cast<std::int64_t>(source.perm.size()) == desc.k, "{}: permutation of {} channels",
            desc.to_string(), source.perm.size());
    for (const std::int32_t channel : source.perm) {
      require(channel >= 0 && channel < desc.k, "{}: permutation names channel {}", desc.to_string(),
              channel);
    }
  }
}

CpuWeights::CpuWeights(const WeightSource& from, const GemmDesc& desc) : source(from) {
  check_source(from, desc);
  if (from.scales != nullptr) scales = to_floats(from.scales, from.scale_dtype, from.n);
  if (from.bias != nullptr) bias = to_floats(from.bias, from.bias_dtype, from.n);
}

std::int64_t CpuWeights::allocated_bytes() const {
  return static_cast<std::int64_t>((scales.size() + bias.size()) * sizeof(float));
}

std::int64_t vector_bytes(const GemmDesc& desc) {
  const std::int64_t vectors = (desc.w != DType::kBF16 ? 1 : 0) + (desc.bias ? 1 : 0);
  return vectors * desc.n * static_cast<std::int64_t>(sizeof(float));
}

std::int64_t stored_values_per_row(const GemmDesc& desc) {
  switch (desc.layout) {
    case Layout::kPacked:
      return desc.pattern.values_per_row(desc.k);
    case Layout::kSplit:
      return split_shape(desc.pattern, desc.k).values_per_row();
    default:
      return desc.k;
  }
}

std::int64_t stored_code_bytes_per_row(const GemmDesc& desc) {
  switch (desc.layout) {
    case Layout::kPacked:
      return desc.pattern.code_bytes_per_row(desc.k);
    case Layout::kSplit:
      return split_shape(desc.pattern, desc.k).code_bytes_per_row();
    default:
      return 0;
  }
}

std::int64_t stored_bytes(const GemmDesc& desc) {
  const auto element = static_cast<std::int64_t>(dtype_size(desc.w));
  return desc.n * (stored_values_per_row(desc) * element + stored_code_bytes_per_row(desc)) +
         vector_bytes(desc);
}

std::vector<std::pair<std::string, std::string>> parse_config(std::string_view text) {
  std::vector<std::pair<std::string, std::string>> words;
  std::string_view left = text;
  while (!left.empty()) {
    const auto space = left.find(' ');
    const std::string_view word = left.substr(0, space);
    left = space == std::string_view::npos ? std::string_view() : left.substr(space + 1);
    const auto equals = word.find('=');
    if (equals == std::string_view::npos || equals == 0 ||
        (space != std::string_view::npos && left.empty())) {
      fail_input("kernel settings \"{}\": words like algo=12, one space between them, were expected",
                 printable(text));
    }
    std::string key(word.substr(0, equals));
    if (std::any_of(words.begin(), words.end(), [&](const auto& known) { return known.first == key; }))
      fail_input("kernel settings \"{}\" name {} twice", printable(text), printable(key));
    words.emplace_back(std::move(key), std::string(word.substr(equals + 1)));
  }
  return words;
}

std::int64_t config_number(const std::pair<std::string, std::string>& word, std::int64_t largest,
                           std::int64_t smallest) {
  const auto& [key, value] = word;
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size() || number < smallest || number > largest) {
    fail_input("kernel setting {}={}: a number from {} to {} was expected", printable(key), printable(value),
               smallest, largest);
  }
  return number;
}

}  // namespace slidesparse
