#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/fail.h"
#include "core/numeric.h"
#include "core/parallel.h"
#include "core/random.h"
#include "gemm/layer_weights.h"
#include "model/weight_reader.h"
#include "slidesparse/format/pack.h"

namespace slidesparse {
namespace {

constexpr float kDeviation = 0.02f;  // of weights, as models are initialised

// Rows that are made, pruned and packed at a time by one thread.
constexpr std::int64_t kRowBlock = 16;

class RandomReader final : public WeightReader {
 public:
  RandomReader(const ModelConfig& config, DType dtype, Pattern pattern, DType head, std::uint64_t seed,
               Layout layout, RandomLayers layers)
      : dtype_(dtype),
        pattern_(pattern),
        split_(layout == Layout::kSplit && !pattern.is_dense()),
        head_(head),
        tied_(config.tied_embeddings),
        repeated_(layers == RandomLayers::kRepeated),
        seed_(seed) {
    require(dtype == DType::kI8 || dtype == DType::kF8E4M3 || dtype == DType::kBF16, "random weights as {}",
            dtype_name(dtype));
    require(head == DType::kI8 || head == DType::kF8E4M3 || head == DType::kBF16, "a random head as {}",
            dtype_name(head));
  }

  std::string describe() const override { return "random weights"; }

  WeightSource linear(const LinearSpec& spec, const FusedGroup& group) override {
    if (!repeated_) return make_linear(spec, group);
    // The module's own name: "q_proj" of "model.layers.3.self_attn.q_proj".
    const std::string name = spec.name.substr(spec.name.rfind('.') + 1);
    const auto found = of_first_layer_.find(name);
    if (found != of_first_layer_.end()) return found->second;
    return of_first_layer_.emplace(name, make_linear(spec, group)).first->second;
  }

  WeightSource linear_shape(const LinearSpec& spec, const FusedGroup&) override {
    WeightSource source = shape(spec, dtype_, pattern_);
    if (split_) source.layout = Layout::kSplit;
    static constexpr std::uint16_t kSomeBias = 0;  // that there is one
    if (spec.bias) source.bias = &kSomeBias;
    return source;
  }
  WeightSource head_shape(const LinearSpec& spec) override { return shape(spec, head_, Pattern()); }

  TensorView plain(const PlainSpec& spec) override {
    const bool norm = spec.shape.rank() == 1;
    return TensorView::contiguous(normals(spec.shape.count(), norm ? 1.0f : 0.0f, kDeviation), DType::kBF16,
                                  spec.shape);
  }

  WeightSource head(const LinearSpec& spec, const TensorView& embedding) override {
    if (!tied_ || head_ != DType::kBF16) return make(spec, head_, Pattern());
    WeightSource source = head_shape(spec);
    source.values = embedding.data;
    return source;
  }

 private:
  WeightSource make_linear(const LinearSpec& spec, const FusedGroup& group) {
    WeightSource source = split_ ? make_split(spec, group) : make(spec, dtype_, pattern_);
    if (spec.bias) source.bias = normals(spec.n, 0.0f, kDeviation);
    return source;
  }

  Buffer& own(std::int64_t bytes) { return owned_.emplace_back(static_cast<std::size_t>(bytes)); }
  std::uint64_t next_seed() { return random_bits(seed_, tensors_++); }

  std::uint16_t* normals(std::int64_t count, float mean, float deviation) {
    auto* out = own(2 * count).as<std::uint16_t>();
    const std::uint64_t seed = next_seed();
    parallel_for(count, 4096, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        out[i] = float_to_bf16(mean + deviation * random_normal(seed, static_cast<std::uint64_t>(i)));
      }
    });
    return out;
  }

  // Fills a dense row with random values of `dtype`, two lanes of every group zero.
  static void fill_row(DType dtype, Pattern pattern, std::uint64_t seed, std::int64_t row, std::int64_t k,
                       std::byte* out) {
    const auto first = static_cast<std::uint64_t>(row * ((k + 7) / 8 + pattern.groups(k)));
    std::uint64_t counter = first;
    auto* bytes = reinterpret_cast<std::uint8_t*>(out);
    for (std::int64_t i = 0; i < k; i += 8) {
      std::uint64_t bits = random_bits(seed, counter++);
      for (std::int64_t j = i; j < std::min(i + 8, k); ++j, bits >>= 8) {
        const auto byte = static_cast<std::uint8_t>(bits);
        if (dtype == DType::kI8) {
          bytes[j] = byte;
        } else if (dtype == DType::kF8E4M3) {
          bytes[j] = byte & 0xbfu;  // magnitudes below 2: no NaN
        } else {
          const float value = static_cast<float>(static_cast<std::int8_t>(byte)) * (kDeviation / 73.9f);
          const std::uint16_t half = float_to_bf16(value);
          std::memcpy(out + 2 * j, &half, sizeof(half));
        }
      }
    }
    if (pattern.is_dense()) return;
    const std::size_t size = dtype_size(dtype);
    const auto width = static_cast<std::uint64_t>(pattern.group());
    for (std::int64_t g = 0; g < pattern.groups(k); ++g) {
      const std::uint64_t bits = random_bits(seed, counter++);
      const std::uint64_t a = (bits & 0xffffffffu) % width;
      const std::uint64_t b = (a + 1 + (bits >> 32) % (width - 1)) % width;
      for (const std::uint64_t lane : {a, b}) {
        const std::int64_t at = g * pattern.group() + static_cast<std::int64_t>(lane);
        if (at < k) std::memset(out + static_cast<std::size_t>(at) * size, 0, size);
      }
    }
  }

  static WeightSource shape(const LinearSpec& spec, DType dtype, Pattern pattern) {
    WeightSource source;
    source.layout = pattern.is_dense() ? Layout::kDense : Layout::kPacked;
    source.pattern = pattern;
    source.dtype = dtype;
    source.n = spec.n;
    source.k = spec.k;
    return source;
  }

  WeightSource make(const LinearSpec& spec, DType dtype, Pattern pattern) {
    const auto size = static_cast<std::int64_t>(dtype_size(dtype));
    const std::int64_t value_bytes = pattern.values_per_row(spec.k) * size;
    const std::int64_t code_bytes = pattern.code_bytes_per_row(spec.k);
    std::byte* values = own(spec.n * value_bytes).data();
    auto* codes = own(spec.n * code_bytes).as<std::uint8_t>();
    const std::uint64_t seed = next_seed();
    parallel_for(spec.n, kRowBlock, [&](std::int64_t begin, std::int64_t end) {
      Buffer rows(static_cast<std::size_t>(kRowBlock * spec.k * size));
      for (std::int64_t row = begin; row < end; row += kRowBlock) {
        const std::int64_t count = std::min(kRowBlock, end - row);
        for (std::int64_t r = 0; r < count; ++r) {
          fill_row(dtype, pattern, seed, row + r, spec.k, rows.data() + r * spec.k * size);
        }
        pack_rows(pattern, dtype, rows.data(), count, spec.k, spec.k, values + row * value_bytes,
                  codes + row * code_bytes, row, spec.name);
      }
    });
    WeightSource source = shape(spec, dtype, pattern);
    source.values = values;
    source.codes = pattern.is_dense() ? nullptr : codes;
    if (dtype != DType::kBF16) set_scales(source);
    return source;
  }

  // Linears of one input share its permutation: they are rows of one matrix, made with the first of them.
  WeightSource make_split(const LinearSpec& spec, const FusedGroup& group) {
    std::int64_t first = 0, rows = 0;
    for (const LinearSpec& member : group.members) {
      if (member.name == spec.name) first = rows;
      rows += member.n;
    }
    if (group.name != group_) {
      GemmDesc desc;
      desc.n = rows;
      desc.k = spec.k;
      desc.x = desc.w = dtype_;
      desc.pattern = pattern_;
      desc.layout = Layout::kSplit;
      groups_.push_back(LayerWeights::random(desc, next_seed()));
      group_ = group.name;
    }
    WeightSource source = groups_.back().source(0, first, spec.n);
    source.bias = nullptr;
    if (dtype_ != DType::kBF16) set_scales(source);
    return source;
  }

  void set_scales(WeightSource& source) {
    // Random bytes deviate by 73.9 as integers and by about 0.7 as E4M3 below 2.
    const std::uint16_t scale = float_to_bf16(kDeviation / (source.dtype == DType::kI8 ? 73.9f : 0.7f));
    auto* scales = own(2 * source.n).as<std::uint16_t>();
    std::fill_n(scales, source.n, scale);
    source.scales = scales;
    source.scale_dtype = DType::kBF16;
  }

  DType dtype_;
  Pattern pattern_;
  bool split_;
  DType head_;
  bool tied_;
  bool repeated_;
  std::uint64_t seed_;
  std::uint64_t tensors_ = 0;
  std::vector<Buffer> owned_;
  std::string group_;  // whose weights were made last
  std::deque<LayerWeights> groups_;
  std::map<std::string, WeightSource> of_first_layer_;  // by the module's name
};

}  // namespace

std::unique_ptr<WeightReader> random_weights(const ModelConfig& config, DType dtype, Pattern pattern,
                                             DType head, std::uint64_t seed, Layout layout,
                                             RandomLayers layers) {
  return std::make_unique<RandomReader>(config, dtype, pattern, head, seed, layout, layers);
}

}  // namespace slidesparse
