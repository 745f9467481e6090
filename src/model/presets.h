#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"

namespace slidesparse {

// Shapes of well-known models, from their public configs: for `random-model` and for measuring speed without
// a download.

// "llama3.2-1b", "llama3.2-3b", "qwen2.5-7b", "qwen2.5-14b", "qwen3-0.6b", "smollm2-135m".
std::vector<std::string> preset_names();
// Nothing for other names.
std::optional<ModelConfig> preset_config(std::string_view name);

// A config.json that parse_model_config() reads back to the same configuration, in the form of the published
// ones (transformers 4).
std::string model_config_json(const ModelConfig& config);
// model_config_json() of a preset with `layers` layers (all of them when empty). Throws kUsage with the list
// of names for others, and for fewer than one layer.
std::string preset_config_json(std::string_view name, std::optional<std::int64_t> layers = {});

}  // namespace slidesparse
