#include <cstring>
#include <map>
#include <optional>

#include "core/buffer.h"
#include "core/fail.h"
#include "core/numeric.h"
#include "core/parallel.h"
#include "core/text.h"
#include "io/compressed_tensors.h"
#include "io/model_directory.h"
#include "io/packed_directory.h"
#include "model/weight_reader.h"

namespace slidesparse {
namespace {

float load_float(DType dtype, const std::byte* data, std::int64_t i) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, data + 4 * i, sizeof(value));
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, data + 2 * i, sizeof(bits));
  return dtype == DType::kBF16 ? bf16_to_float(bits) : f16_to_float(bits);
}

bool is_float(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

class DirectoryReader final : public WeightReader {
 public:
  DirectoryReader(const std::filesystem::path& path, const ModelConfig& config, bool validate)
      : directory_(path), tied_(config.tied_embeddings), validate_(validate) {
    const std::string file = (path / "config.json").string();
    packed_ = parse_packed_info(directory_.config_text(), file);
    if (!packed_) compressed_ = parse_compressed_tensors(directory_.config_text(), file);
  }

  std::string describe() const override {
    return fmt::format("{} {}",
                       packed_       ? "packed directory"
                       : compressed_ ? "compressed-tensors directory"
                                     : "directory",
                       directory_.path().string());
  }

  WeightSource linear(const LinearSpec& spec, const FusedGroup& group) override {
    WeightSource source = packed_ ? packed_linear(*packed_, spec, group.perm_name) : stored_linear(spec);
    const std::string bias = spec.name + ".bias";
    if (spec.bias) {
      const TensorView view = float_tensor(bias, {spec.n});
      source.bias = view.data;
      source.bias_dtype = view.dtype;
    } else if (directory_.contains(bias)) {
      fail_input("{}: tensor {} is there, but this architecture has no such bias", directory_.path().string(),
                 bias);
    }
    return source;
  }

  TensorView plain(const PlainSpec& spec) override { return as_bf16(spec.name, spec.shape); }

  WeightSource head(const LinearSpec& spec, const TensorView& embedding) override {
    if (packed_ && packed_->head == DType::kI8) {
      // The head is quantised by the linears' rules but never pruned.
      PackedInfo info = *packed_;
      info.dtype = DType::kI8;
      info.exceptions[spec.name] = {Pattern(), PackedLayout::kSlide, "head"};
      return packed_linear(info, spec, "");
    }
    if (tied_) return dense_bf16(spec, embedding);
    return stored_linear(spec);
  }

  WeightSource head_shape(const LinearSpec& spec) override {
    if (!tied_ || (packed_ && packed_->head == DType::kI8)) return head(spec, {});
    WeightSource source;
    source.dtype = DType::kBF16;
    source.n = spec.n;
    source.k = spec.k;
    return source;
  }

 private:
  WeightSource packed_linear(const PackedInfo& info, const LinearSpec& spec, const std::string& perm_name) {
    const PackedLinear linear = read_packed_linear(directory_, info, spec.name, spec.n, spec.k, perm_name);
    if (validate_) validate_packed_linear(linear);
    WeightSource source;
    source.layout = linear.layout == PackedLayout::kSplit ? Layout::kSplit
                    : linear.pattern.is_dense()           ? Layout::kDense
                                                          : Layout::kPacked;
    source.pattern = linear.pattern;
    source.dtype = linear.dtype;
    source.n = linear.n;
    source.k = linear.k;
    source.values = linear.values;
    source.codes = linear.codes;
    source.perm = linear.perm;
    if (linear.scale) {
      source.scales = linear.scale->data;
      source.scale_dtype = linear.scale->dtype;
    }
    return source;
  }

  static WeightSource dense_bf16(const LinearSpec& spec, const TensorView& weight) {
    WeightSource source;
    source.dtype = DType::kBF16;
    source.n = spec.n;
    source.k = spec.k;
    source.values = weight.data;
    return source;
  }

  WeightSource stored_linear(const LinearSpec& spec) {
    const std::string name = spec.name + ".weight";
    if (!compressed_ || !compressed_->quantises(spec.name))
      return dense_bf16(spec, as_bf16(name, {spec.n, spec.k}));
    const TensorView weight = directory_.tensor(name, {spec.n, spec.k});
    if (weight.dtype != compressed_->dtype()) {
      fail_input("{}: tensor {}: {} was expected (quantization_config), found {}", directory_.path().string(),
                 name, dtype_name(compressed_->dtype()), dtype_name(weight.dtype));
    }
    WeightSource source;
    source.dtype = weight.dtype;
    source.n = spec.n;
    source.k = spec.k;
    source.values = weight.data;
    const TensorView scale = row_scales(spec);
    source.scales = scale.data;
    source.scale_dtype = scale.dtype;
    return source;
  }

  // One scale per output channel: [n, 1] as stored, or a tensor's single scale repeated.
  TensorView row_scales(const LinearSpec& spec) {
    const std::string name = spec.name + ".weight_scale";
    const TensorView stored = directory_.tensor(name);
    if (!is_float(stored.dtype)) {
      fail_input("{}: tensor {}: BF16, F16 or F32 was expected, found {}", directory_.path().string(), name,
                 dtype_name(stored.dtype));
    }
    const std::int64_t count = stored.shape.count();
    if (count != spec.n && count != 1) {
      fail_input("{}: tensor {}: {} scales (or 1) were expected, found shape {}", directory_.path().string(),
                 name, spec.n, stored.shape.to_string());
    }
    const auto* data = stored.as<const std::byte>();
    for (std::int64_t i = 0; i < count; ++i) {
      const float value = load_float(stored.dtype, data, i);
      if (!(value >= 0.0f && value <= std::numeric_limits<float>::max())) {
        fail_input("{}: tensor {}: scale {} is {}, which is not a finite number >= 0",
                   directory_.path().string(), name, i, value);
      }
    }
    if (count == spec.n) return stored;
    float* scales = own(4 * spec.n).as<float>();
    std::fill_n(scales, spec.n, load_float(stored.dtype, data, 0));
    return TensorView::contiguous(scales, DType::kF32, {spec.n});
  }

  TensorView float_tensor(const std::string& name, const Shape& shape) {
    const TensorView view = directory_.tensor(name, shape);
    if (!is_float(view.dtype)) {
      fail_input("{}: tensor {}: BF16, F16 or F32 was expected, found {}", directory_.path().string(), name,
                 dtype_name(view.dtype));
    }
    return view;
  }

  // The mapped tensor itself when it is BF16 at an even address, otherwise a converted copy (made once a
  // name).
  TensorView as_bf16(const std::string& name, const Shape& shape) {
    const TensorView view = float_tensor(name, shape);
    if (view.dtype == DType::kBF16 && reinterpret_cast<std::uintptr_t>(view.data) % 2 == 0) return view;
    if (const auto found = converted_.find(name); found != converted_.end()) return found->second;
    const std::int64_t count = shape.count();
    auto* out = own(2 * count).as<std::uint16_t>();
    const auto* data = view.as<const std::byte>();
    parallel_for(count, 4096, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) out[i] = float_to_bf16(load_float(view.dtype, data, i));
    });
    return converted_[name] = TensorView::contiguous(out, DType::kBF16, shape);
  }

  Buffer& own(std::int64_t bytes) { return owned_.emplace_back(static_cast<std::size_t>(bytes)); }

  ModelDirectory directory_;
  bool tied_;
  bool validate_;
  std::optional<PackedInfo> packed_;
  std::optional<CompressedTensorsConfig> compressed_;
  std::vector<Buffer> owned_;
  std::map<std::string, TensorView> converted_;
};

}  // namespace

std::unique_ptr<WeightReader> open_weights(const std::filesystem::path& directory, const ModelConfig& config,
                                           bool validate) {
  return std::make_unique<DirectoryReader>(directory, config, validate);
}

}  // namespace slidesparse
