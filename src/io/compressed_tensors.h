#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "slidesparse/core/dtype.h"

namespace slidesparse {

// The W8A8 forms of compressed-tensors' `quantization_config` that we compute with: 8-bit symmetric weights
// (integers, or floats = E4M3) with a scale per output channel or per tensor, and activations quantised per
// token when they arrive. On disk NAME.weight is I8 or F8_E4M3 [n, k] and NAME.weight_scale is [n, 1]
// (channel) or [1] (tensor).
class CompressedTensorsConfig {
 public:
  CompressedTensorsConfig(DType dtype, const std::vector<std::string>& targets,
                          const std::vector<std::string>& ignore, const std::string& where);
  ~CompressedTensorsConfig();
  CompressedTensorsConfig(CompressedTensorsConfig&&) noexcept;
  CompressedTensorsConfig& operator=(CompressedTensorsConfig&&) noexcept;

  // I8 or F8_E4M3.
  DType dtype() const;
  // Whether the linear layer `name` ("model.layers.0.mlp.up_proj", "lm_head") is quantised: a target matches
  // ("Linear", its name, or "re:" and a Python-style regular expression that matches at the start) and no
  // entry of `ignore` does.
  bool quantises(std::string_view name) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Parses and checks the section `quantization_config`; nothing when config.json has none. Throws kInput for
// what is damaged and kUnsupported, naming what was found, for other methods, formats, bits, groups,
// asymmetric or static schemes, quantised KV caches and compressed sparsity.
std::optional<CompressedTensorsConfig> parse_compressed_tensors(const std::string& config_text,
                                                                const std::string& file);

// The config.json text of a directory whose linears are stored as W8A8 with one scale per output channel: any
// `slidesparse` section and old quantization_config go, the new one (dtype I8 or F8_E4M3; linears named in
// `ignore`, e.g. "lm_head", stay as they are) comes last. BF16 only removes both sections. Deterministic
// bytes, keys in their order.
std::string config_with_compressed_tensors(const std::string& config_text, DType dtype,
                                           const std::vector<std::string>& ignore);

}  // namespace slidesparse
