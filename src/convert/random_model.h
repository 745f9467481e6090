#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "model/config.h"

namespace slidesparse {

struct RandomModelOptions {
  std::filesystem::path target;
  std::uint64_t seed = 0;
  std::optional<std::int64_t> layers;  // all of them when empty
  bool force = false;
  bool quiet = false;
  std::int64_t shard_bytes = 5'000'000'000;
};

// Writes a Hugging Face directory with the shapes of a preset (model/presets.h) and random BF16 weights:
// matrices and biases about N(0, 0.02), norms 1. The bytes depend on name, seed and layers only. Atomic and
// resumable (directory_job.h).
void random_model(std::string_view preset, const RandomModelOptions& options);

// The same for any configuration; tensors have its dtype (BF16, F16 or F32). Its vocabulary must have room
// for 256 bytes and the special tokens.
void random_model(const ModelConfig& config, const RandomModelOptions& options);

}  // namespace slidesparse
