#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "slidesparse/core/dtype.h"

namespace slidesparse {

enum class Family { kLlama, kQwen2, kQwen3 };
std::string_view family_name(Family family);  // "LlamaForCausalLM", ...

// Rotary embedding; llama3 scaling as in the Llama 3.1 release (arXiv 2407.21783; parameters of the public
// configs).
struct RopeConfig {
  enum class Scaling { kDefault, kLlama3 };
  double theta = 10000.0;
  Scaling scaling = Scaling::kDefault;
  double factor = 1.0;
  double low_frequency_factor = 1.0;
  double high_frequency_factor = 4.0;
  std::int64_t original_max_position = 8192;
};

// What the computation depends on, read from config.json in the forms of transformers 4 and 5.
struct ModelConfig {
  Family family = Family::kLlama;
  std::int64_t hidden = 0;
  std::int64_t intermediate = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t vocab = 0;
  std::int64_t max_position = 0;
  double rms_eps = 1e-6;
  RopeConfig rope;
  bool tied_embeddings = false;
  bool qkv_bias = false;        // Qwen2
  bool qk_norm = false;         // Qwen3: RMSNorm of each q and k head
  std::int64_t bos_token = -1;  // -1: none
  std::vector<std::int64_t> eos_tokens;
  DType dtype = DType::kBF16;             // of the unquantised tensors
  std::vector<std::string> unknown_keys;  // keys that are in no list of ours and were ignored
};

// Parses config.json. A key is refused only if its effective value changes the computation and we do not
// support it; the table of keys known, ignored and refused is in config.cpp. Throws kInput naming file, key,
// expected and found.
ModelConfig parse_model_config(std::string_view config_json, const std::string& file);

// End tokens that generation_config.json names (chat models often list more there than in config.json).
std::vector<std::int64_t> parse_generation_eos(std::string_view generation_config_json,
                                               const std::string& file);

}  // namespace slidesparse
