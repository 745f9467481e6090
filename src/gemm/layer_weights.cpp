#include "gemm/layer_weights.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "core/checked.h"
#include "core/fail.h"
#include "core/numeric.h"
#include "core/parallel.h"
#include "core/random.h"
#include "gemm/backends/common.h"
#include "gemm/random_problem.h"
#include "slidesparse/format/codes.h"
#include "slidesparse/format/split.h"

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

}  // namespace

std::int64_t layer_weight_bytes(const GemmDesc& desc) {
  return desc.n * (stored_values_per_row(desc) * static_cast<std::int64_t>(dtype_size(desc.w)) +
                   stored_code_bytes_per_row(desc));
}

LayerWeights::LayerWeights(const GemmDesc& desc, std::int64_t copies) : desc_(desc), copies_(copies) {
  value_bytes_ = desc.n * stored_values_per_row(desc) * static_cast<std::int64_t>(dtype_size(desc.w));
  code_bytes_ = desc.n * stored_code_bytes_per_row(desc);
  values_ = Buffer(static_cast<std::size_t>(value_bytes_ * copies_));
  codes_ = Buffer(static_cast<std::size_t>(code_bytes_ * copies_));
}

void LayerWeights::repeat_first() {
  for (std::int64_t copy = 1; copy < copies_; ++copy) {
    std::memcpy(values_.data() + copy * value_bytes_, values_.data(), static_cast<std::size_t>(value_bytes_));
    std::memcpy(codes_.data() + copy * code_bytes_, codes_.data(), static_cast<std::size_t>(code_bytes_));
  }
}

LayerWeights LayerWeights::random(const GemmDesc& desc, std::uint64_t seed, std::int64_t copies) {
  LayerWeights made(desc, copies);
  fill_random_values(desc.w, made.values_.data(), desc.n * stored_values_per_row(desc), seed);
  if (desc.layout == Layout::kSplit) {
    const SplitShape shape = split_shape(desc.pattern, desc.k);
    const Pattern quads = Pattern::of_half_group(2);
    fill_codes(quads, made.codes_.as<std::uint8_t>(), desc.n, shape.sparse / 4, seed + 1);
    made.own_perm_ = random_split_order(shape, seed + 4);
    made.perm_ = made.own_perm_;
  } else if (!desc.pattern.is_dense()) {
    auto* const codes = made.codes_.as<std::uint8_t>();
    fill_codes(desc.pattern, codes, desc.n, desc.pattern.groups(desc.k), seed + 1);
    clear_tails(desc, made.values_.data(), codes);
  }
  made.repeat_first();
  for (std::int64_t n = 0; n < desc.n; ++n) {
    made.scales_.push_back(0x1p-8f * (1.0f + random_uniform(seed + 2, static_cast<std::uint64_t>(n))));
    made.bias_.push_back(float_to_bf16(random_normal(seed + 3, static_cast<std::uint64_t>(n))));
  }
  return made;
}

LayerWeights LayerWeights::joined(const GemmDesc& desc, std::span<const WeightSource> members,
                                  std::int64_t copies, std::span<const std::int32_t> row_order) {
  LayerWeights made(desc, copies);
  // out[i] = in[row_order[i]], rows of `bytes` bytes.
  const auto copy_rows = [row_order](std::byte* out, const void* in, std::int64_t rows, std::int64_t bytes) {
    const auto* from = static_cast<const std::byte*>(in);
    parallel_for(rows, 256, [&](std::int64_t begin, std::int64_t end) {
      if (row_order.empty()) {
        std::memcpy(out + begin * bytes, from + begin * bytes,
                    static_cast<std::size_t>((end - begin) * bytes));
        return;
      }
      for (std::int64_t i = begin; i < end; ++i)
        std::memcpy(out + i * bytes, from + row_order[static_cast<std::size_t>(i)] * bytes,
                    static_cast<std::size_t>(bytes));
    });
  };
  const auto ordered = [row_order](std::vector<float> values) {
    if (row_order.empty()) return values;
    std::vector<float> out(values.size());
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = values[static_cast<std::size_t>(row_order[i])];
    return out;
  };
  std::int64_t row = 0;
  for (const WeightSource& member : members) {
    require(member.layout == desc.layout && member.pattern == desc.pattern && member.dtype == desc.w &&
                member.k == desc.k && row + member.n <= desc.n &&
                (row_order.empty() || static_cast<std::int64_t>(row_order.size()) == member.n),
            "{}: its parts differ", desc.to_string());
    const std::int64_t value_row = made.value_bytes_ / desc.n;
    const std::int64_t code_row = made.code_bytes_ / desc.n;
    copy_rows(made.values_.data() + row * value_row, member.values, member.n, value_row);
    if (code_row != 0) copy_rows(made.codes_.data() + row * code_row, member.codes, member.n, code_row);
    if (desc.w != DType::kBF16) {
      const std::vector<float> scales = ordered(to_floats(member.scales, member.scale_dtype, member.n));
      made.scales_.insert(made.scales_.end(), scales.begin(), scales.end());
    }
    if (desc.bias) {
      const std::vector<float> bias = member.bias == nullptr
                                          ? std::vector<float>(static_cast<std::size_t>(member.n))
                                          : ordered(to_floats(member.bias, member.bias_dtype, member.n));
      if (desc.bias_dtype == DType::kBF16) {
        std::transform(bias.begin(), bias.end(), std::back_inserter(made.bias_), float_to_bf16);
      } else {
        made.wide_bias_.insert(made.wide_bias_.end(), bias.begin(), bias.end());
      }
    }
    made.perm_ = member.perm;
    row += member.n;
  }
  require(row == desc.n, "{}: parts have {} channels", desc.to_string(), row);
  made.repeat_first();
  return made;
}

WeightSource LayerWeights::source(std::int64_t copy, std::int64_t row, std::int64_t rows) const {
  WeightSource source;
  source.layout = desc_.layout;
  source.pattern = desc_.pattern;
  source.dtype = desc_.w;
  source.n = rows;
  source.k = desc_.k;
  source.values = values_.data() + copy * value_bytes_ + row * (value_bytes_ / desc_.n);
  if (code_bytes_ != 0)
    source.codes = codes_.as<std::uint8_t>() + copy * code_bytes_ + row * (code_bytes_ / desc_.n);
  source.perm = perm_;
  if (desc_.w != DType::kBF16) {
    source.scales = scales_.data() + row;
    source.scale_dtype = DType::kF32;
  }
  if (desc_.bias) {
    const bool wide = !wide_bias_.empty();
    source.bias_dtype = wide ? DType::kF32 : DType::kBF16;
    source.bias = wide ? static_cast<const void*>(wide_bias_.data() + row)
                       : static_cast<const void*>(bias_.data() + row);
  }
  return source;
}

}  // namespace slidesparse
