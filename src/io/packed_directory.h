#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "io/model_directory.h"
#include "slidesparse/format/pack.h"
#include "slidesparse/format/pattern.h"
#include "slidesparse/format/split.h"

namespace slidesparse {

// How the weights of a layer are laid out on disk.
enum class PackedLayout { kSlide, kSplit };
std::string_view packed_layout_name(PackedLayout layout);  // "slide" or "split"
// Throws kInput starting with `where` for any other word.
PackedLayout parse_packed_layout(std::string_view text, const std::string& where);

// The `slidesparse` section of config.json (docs/format.md, "Directory").
struct PackedInfo {
  static constexpr int kFormatVersion = 1;
  int format_version = kFormatVersion;
  Pattern pattern;  // default of the directory
  PackedLayout layout = PackedLayout::kSlide;
  DType dtype = DType::kI8;  // I8, F8_E4M3 or BF16
  std::string method = "magnitude";
  std::string calibration;    // empty: none
  DType head = DType::kBF16;  // or I8
  std::string source_sha256;
  std::string tool_version;
  struct LayerException {  // a linear whose pattern or layout differs from the default, e.g. skipped: dense
    Pattern pattern;
    PackedLayout layout = PackedLayout::kSlide;
    std::string reason;
  };
  std::map<std::string, LayerException> exceptions;  // by linear name without ".weight"

  const Pattern& pattern_of(const std::string& linear) const;
  PackedLayout layout_of(const std::string& linear) const;
};

// Parses and checks the section; nothing when config.json has none (an ordinary Hugging Face directory).
std::optional<PackedInfo> parse_packed_info(const std::string& config_text, const std::string& file);
// The config.json text with the section put in (replacing quantization_config if any): deterministic bytes.
std::string config_with_packed_info(const std::string& config_text, const PackedInfo& info);

// One packed linear: views into the directory's mappings, every size checked against the declared shape.
struct PackedLinear {
  std::string name;    // without ".weight"
  std::int64_t n = 0;  // N_out
  std::int64_t k = 0;
  Pattern pattern;
  PackedLayout layout = PackedLayout::kSlide;
  DType dtype = DType::kI8;
  const void* values =
      nullptr;  // slide: [n, pattern.values_per_row(k)]; split: [n, split_shape(pattern, k).values_per_row()]
  const std::uint8_t* codes = nullptr;
  std::optional<TensorView> scale;     // [n, 1], BF16 / F16 / F32; none for BF16 weights
  std::span<const std::int32_t> perm;  // split only: [k]

  PackedView view() const { return {pattern, dtype, n, k, values, codes}; }  // slide only
};

// Reads linear `name` ("model.layers.0.mlp.up_proj") of extents [n, k] from a packed directory. Throws kInput
// with tensor, expected and found when a tensor is missing or of another size or dtype. Does not touch values
// or codes.
PackedLinear read_packed_linear(const ModelDirectory& directory, const PackedInfo& info,
                                const std::string& name, std::int64_t n, std::int64_t k,
                                const std::string& perm_name);

// The full check, touching every byte: codes name pairs, tail values are zero, scales are finite and positive
// (zero only with zero codes), permutations are permutations, FP8 values hold no NaN. Throws kInput by name
// of tensor.
void validate_packed_linear(const PackedLinear& linear);

}  // namespace slidesparse
