#include "model/presets.h"

#include <array>

#include "core/fail.h"
#include "core/text.h"
#include "io/json.h"

namespace slidesparse {
namespace {

struct Preset {
  std::string_view name;
  Family family;
  std::int64_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocab, max_position;
  double rms_eps, rope_theta, rope_factor;  // factor 0: no scaling
  bool tied;
  std::int64_t bos, eos;
};

constexpr std::array kPresets = {
    Preset{"llama3.2-1b", Family::kLlama, 2048, 8192, 16, 32, 8, 64, 128256, 131072, 1e-5, 5e5, 32, true,
           128000, 128001},
    Preset{"llama3.2-3b", Family::kLlama, 3072, 8192, 28, 24, 8, 128, 128256, 131072, 1e-5, 5e5, 32, true,
           128000, 128001},
    Preset{"qwen2.5-7b", Family::kQwen2, 3584, 18944, 28, 28, 4, 128, 152064, 131072, 1e-6, 1e6, 0, false,
           151643, 151643},
    Preset{"qwen2.5-14b", Family::kQwen2, 5120, 13824, 48, 40, 8, 128, 152064, 131072, 1e-5, 1e6, 0, false,
           151643, 151643},
    Preset{"qwen3-0.6b", Family::kQwen3, 1024, 3072, 28, 16, 8, 128, 151936, 40960, 1e-6, 1e6, 0, true,
           151643, 151645},
    Preset{"smollm2-135m", Family::kLlama, 576, 1536, 30, 9, 3, 64, 49152, 8192, 1e-5, 1e5, 0, true, 1, 2},
};

ModelConfig to_config(const Preset& preset) {
  ModelConfig config;
  config.family = preset.family;
  config.hidden = preset.hidden;
  config.intermediate = preset.intermediate;
  config.layers = preset.layers;
  config.heads = preset.heads;
  config.kv_heads = preset.kv_heads;
  config.head_dim = preset.head_dim;
  config.vocab = preset.vocab;
  config.max_position = preset.max_position;
  config.rms_eps = preset.rms_eps;
  config.rope.theta = preset.rope_theta;
  if (preset.rope_factor > 0) {
    config.rope.scaling = RopeConfig::Scaling::kLlama3;
    config.rope.factor = preset.rope_factor;
  }
  config.tied_embeddings = preset.tied;
  config.qkv_bias = preset.family == Family::kQwen2;
  config.qk_norm = preset.family == Family::kQwen3;
  config.bos_token = preset.bos;
  config.eos_tokens = {preset.eos};
  return config;
}

std::string torch_name(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
    case DType::kF32:
      return "float32";
    default:
      break;
  }
  fail(ErrorKind::kInternal, "{} is no dtype of a model", dtype_name(dtype));
}

}  // namespace

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  names.reserve(std::size(kPresets));
  for (const Preset& preset : kPresets) names.emplace_back(preset.name);
  return names;
}

std::optional<ModelConfig> preset_config(std::string_view name) {
  for (const Preset& preset : kPresets) {
    if (preset.name == name) return to_config(preset);
  }
  return std::nullopt;
}

std::string model_config_json(const ModelConfig& config) {
  const bool llama = config.family == Family::kLlama;
  OrderedJson json = OrderedJson::object();
  json["architectures"] = {family_name(config.family)};
  json["attention_dropout"] = 0.0;
  if (config.family != Family::kQwen2) json["attention_bias"] = false;
  if (config.bos_token >= 0) json["bos_token_id"] = config.bos_token;
  if (config.eos_tokens.size() == 1) json["eos_token_id"] = config.eos_tokens.front();
  if (config.eos_tokens.size() > 1) json["eos_token_id"] = config.eos_tokens;
  // transformers' Qwen2 has no such key; it takes hidden_size / num_attention_heads.
  if (config.family != Family::kQwen2) json["head_dim"] = config.head_dim;
  json["hidden_act"] = "silu";
  json["hidden_size"] = config.hidden;
  json["initializer_range"] = 0.02;
  json["intermediate_size"] = config.intermediate;
  json["max_position_embeddings"] = config.max_position;
  if (!llama) json["max_window_layers"] = config.layers;
  if (llama) json["mlp_bias"] = false;
  json["model_type"] = llama ? "llama" : config.family == Family::kQwen2 ? "qwen2" : "qwen3";
  json["num_attention_heads"] = config.heads;
  json["num_hidden_layers"] = config.layers;
  json["num_key_value_heads"] = config.kv_heads;
  json["rms_norm_eps"] = config.rms_eps;
  if (config.rope.scaling == RopeConfig::Scaling::kLlama3) {
    json["rope_scaling"] = {{"factor", config.rope.factor},
                            {"high_freq_factor", config.rope.high_frequency_factor},
                            {"low_freq_factor", config.rope.low_frequency_factor},
                            {"original_max_position_embeddings", config.rope.original_max_position},
                            {"rope_type", "llama3"}};
  } else {
    json["rope_scaling"] = nullptr;
  }
  json["rope_theta"] = config.rope.theta;
  if (!llama) json["sliding_window"] = config.max_position;
  json["tie_word_embeddings"] = config.tied_embeddings;
  json["torch_dtype"] = torch_name(config.dtype);
  json["use_cache"] = true;
  if (!llama) json["use_sliding_window"] = false;
  json["vocab_size"] = config.vocab;
  return json.dump(2) + "\n";
}

std::string preset_config_json(std::string_view name, std::optional<std::int64_t> layers) {
  std::optional<ModelConfig> config = preset_config(name);
  if (!config) {
    fail(ErrorKind::kUsage, "\"{}\" is no model whose shape is known; there are {}", printable(name),
         fmt::join(preset_names(), ", "));
  }
  if (layers && *layers < 1) fail(ErrorKind::kUsage, "--layers {}: at least one is needed", *layers);
  if (layers) config->layers = *layers;
  return model_config_json(*config);
}

}  // namespace slidesparse
