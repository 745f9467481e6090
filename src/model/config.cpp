#include "model/config.h"

#include <algorithm>
#include <array>
#include <optional>

#include "core/fail.h"
#include "core/text.h"
#include "io/json.h"

namespace slidesparse {
namespace {

// The table of keys. kRead: read below. kIgnored: changes nothing that we compute. kOnly: any value but those
// listed would change the computation in a way that we do not have, so it is refused. null always means "not
// given". Keys that are not here are listed in ModelConfig::unknown_keys, so that a program can say that it
// ignored them.
enum class Use { kRead, kIgnored, kOnly };

struct KeyRule {
  std::string_view key;
  Use use = Use::kIgnored;
  const char* accepted = "";  // kOnly: a JSON array of the values that change nothing
  bool qwen2 = true;          // whether Qwen2ForCausalLM looks at the key at all
};

constexpr KeyRule kKeys[] = {
    // Read.
    {"architectures", Use::kRead},
    {"model_type", Use::kRead},
    {"hidden_size", Use::kRead},
    {"intermediate_size", Use::kRead},
    {"num_hidden_layers", Use::kRead},
    {"num_attention_heads", Use::kRead},
    {"num_key_value_heads", Use::kRead},
    {"head_dim", Use::kRead},
    {"vocab_size", Use::kRead},
    {"max_position_embeddings", Use::kRead},
    {"rms_norm_eps", Use::kRead},
    {"rope_theta", Use::kRead},
    {"rope_scaling", Use::kRead},     // transformers 4
    {"rope_parameters", Use::kRead},  // transformers 5
    {"tie_word_embeddings", Use::kRead},
    {"torch_dtype", Use::kRead},  // transformers 4
    {"dtype", Use::kRead},        // transformers 5
    {"bos_token_id", Use::kRead},
    {"eos_token_id", Use::kRead},
    {"use_sliding_window", Use::kRead},
    {"sliding_window", Use::kRead},
    {"max_window_layers", Use::kRead},
    {"layer_types", Use::kRead},
    // Read by whoever opens the weights.
    {"quantization_config", Use::kRead},
    {"slidesparse", Use::kRead},
    // Refused unless they change nothing.
    {"hidden_act", Use::kOnly, R"(["silu", "swish"])"},
    {"attention_bias", Use::kOnly, "[false]", false},  // Qwen2 has its q, k and v biases whatever this says
    {"mlp_bias", Use::kOnly, "[false]"},
    {"partial_rotary_factor", Use::kOnly, "[1, 1.0]"},
    {"rope_interleaved", Use::kOnly, "[false]"},
    {"is_encoder_decoder", Use::kOnly, "[false]"},
    {"add_cross_attention", Use::kOnly, "[false]"},
    {"pruned_heads", Use::kOnly, "[{}]"},
    {"is_decoder", Use::kIgnored},
    // Ignored: training, bookkeeping, generation defaults, or arithmetic that gives the same product.
    {"attention_dropout", Use::kIgnored},
    {"hidden_dropout", Use::kIgnored},
    {"initializer_range", Use::kIgnored},
    {"pretraining_tp", Use::kIgnored},  // slices of the same matrix products
    {"use_cache", Use::kIgnored},
    {"transformers_version", Use::kIgnored},
    {"transformers.js_config", Use::kIgnored},
    {"_name_or_path", Use::kIgnored},
    {"_attn_implementation", Use::kIgnored},
    {"_attn_implementation_autoset", Use::kIgnored},
    {"_commit_hash", Use::kIgnored},
    {"auto_map", Use::kIgnored},
    {"is_llama_config", Use::kIgnored},
    {"pad_token_id", Use::kIgnored},
    {"sep_token_id", Use::kIgnored},
    {"cls_token_id", Use::kIgnored},
    {"decoder_start_token_id", Use::kIgnored},
    {"bad_words_ids", Use::kIgnored},
    {"begin_suppress_tokens", Use::kIgnored},
    {"suppress_tokens", Use::kIgnored},
    {"forced_bos_token_id", Use::kIgnored},
    {"forced_eos_token_id", Use::kIgnored},
    {"chunk_size_feed_forward", Use::kIgnored},
    {"cross_attention_hidden_size", Use::kIgnored},
    {"tie_encoder_decoder", Use::kIgnored},
    {"tokenizer_class", Use::kIgnored},
    {"prefix", Use::kIgnored},
    {"finetuning_task", Use::kIgnored},
    {"problem_type", Use::kIgnored},
    {"task_specific_params", Use::kIgnored},
    {"id2label", Use::kIgnored},
    {"label2id", Use::kIgnored},
    {"output_attentions", Use::kIgnored},
    {"output_hidden_states", Use::kIgnored},
    {"output_scores", Use::kIgnored},
    {"return_dict", Use::kIgnored},
    {"return_dict_in_generate", Use::kIgnored},
    {"remove_invalid_values", Use::kIgnored},
    {"torchscript", Use::kIgnored},
    {"tf_legacy_loss", Use::kIgnored},
    {"use_bfloat16", Use::kIgnored},
    {"do_sample", Use::kIgnored},
    {"temperature", Use::kIgnored},
    {"top_k", Use::kIgnored},
    {"top_p", Use::kIgnored},
    {"typical_p", Use::kIgnored},
    {"num_beams", Use::kIgnored},
    {"num_beam_groups", Use::kIgnored},
    {"diversity_penalty", Use::kIgnored},
    {"early_stopping", Use::kIgnored},
    {"encoder_no_repeat_ngram_size", Use::kIgnored},
    {"exponential_decay_length_penalty", Use::kIgnored},
    {"length_penalty", Use::kIgnored},
    {"max_length", Use::kIgnored},
    {"min_length", Use::kIgnored},
    {"no_repeat_ngram_size", Use::kIgnored},
    {"num_return_sequences", Use::kIgnored},
    {"repetition_penalty", Use::kIgnored},
    {"unsloth_fixed", Use::kIgnored},
    {"unsloth_version", Use::kIgnored},
};

// Limits that keep every product of two or three extents inside 63 bits; all real models are far below them.
constexpr std::int64_t kMaxWidth = 1 << 20;
constexpr std::int64_t kMaxIntermediate = 1 << 22;
constexpr std::int64_t kMaxLayers = 4096;
constexpr std::int64_t kMaxHeads = 1 << 14;
constexpr std::int64_t kMaxHeadDim = 1024;
constexpr std::int64_t kMaxVocab = 1 << 24;
constexpr std::int64_t kMaxPosition = (std::int64_t{1} << 31) - 1;

struct FamilyNames {
  Family family;
  std::string_view architecture;
  std::string_view model_type;
};
constexpr FamilyNames kFamilies[] = {
    {Family::kLlama, "LlamaForCausalLM", "llama"},
    {Family::kQwen2, "Qwen2ForCausalLM", "qwen2"},
    {Family::kQwen3, "Qwen3ForCausalLM", "qwen3"},
};

bool given(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && !it->is_null();
}

std::string shown(const Json& value) {
  return printable(value.dump(-1, ' ', true, Json::error_handler_t::replace), 80);
}

Family read_family(const Json& root, const std::string& file) {
  const auto it = root.find("architectures");
  const bool one_name = it != root.end() && it->is_array() && it->size() == 1 && it->front().is_string();
  if (!one_name) {
    fail_input(
        "{}: architectures: one of LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM in a list is needed, "
        "found {}",
        file, it == root.end() ? "nothing" : shown(*it));
  }
  const auto& name = it->front().get_ref<const std::string&>();
  for (const FamilyNames& names : kFamilies) {
    if (names.architecture != name) continue;
    const std::string type = json_string_or(root, "model_type", file, std::string(names.model_type));
    if (type != names.model_type) {
      fail_input("{}: model_type is \"{}\", but architectures says {} (\"{}\")", file, printable(type), name,
                 names.model_type);
    }
    return names.family;
  }
  fail_input(
      "{}: architecture \"{}\" is not supported (LlamaForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM "
      "are)",
      file, printable(name));
}

void check_table(const Json& root, Family family, const std::string& file,
                 std::vector<std::string>& unknown) {
  for (const auto& [key, value] : root.items()) {
    const auto* rule = std::ranges::find(kKeys, std::string_view(key), &KeyRule::key);
    if (rule == std::end(kKeys)) {
      unknown.push_back(printable(key, 60));
      continue;
    }
    if (rule->use != Use::kOnly || value.is_null() || (family == Family::kQwen2 && !rule->qwen2)) continue;
    const Json accepted = Json::parse(rule->accepted);
    if (std::ranges::find(accepted, value) == accepted.end()) {
      fail_input("{}: {} = {} would change the computation and is not supported for {} (accepted: {})", file,
                 rule->key, shown(value), family_name(family), accepted.dump());
    }
  }
}

RopeConfig read_rope_object(const Json& object, const std::string& where, double theta,
                            std::int64_t max_position) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) {
      fail_input("{}: {} is an object: rotary parameters that differ between layers are not supported", where,
                 printable(key, 60));
    }
  }
  RopeConfig rope;
  rope.theta = json_number_or(object, "rope_theta", where, 1.0, 1e12, theta);
  const std::string old_name = json_string_or(object, "type", where, "");
  const std::string type =
      json_string_or(object, "rope_type", where, old_name.empty() ? "default" : old_name);
  if (!old_name.empty() && old_name != type) {
    fail_input("{}: rope_type \"{}\" and type \"{}\" contradict each other", where, printable(type),
               printable(old_name));
  }
  const double partial = json_number_or(object, "partial_rotary_factor", where, 0.0, 1.0, 1.0);
  if (partial != 1.0) fail_input("{}: partial_rotary_factor = {} is not supported (only 1)", where, partial);
  if (type == "default") return rope;
  const double factor = json_number(object, "factor", where, 1.0, 1e6);
  if (type == "llama3") {
    rope.scaling = RopeConfig::Scaling::kLlama3;
    rope.factor = factor;
    rope.low_frequency_factor = json_number(object, "low_freq_factor", where, 1e-3, 1e6);
    rope.high_frequency_factor = json_number(object, "high_freq_factor", where, 1e-3, 1e6);
    rope.original_max_position =
        json_int_or(object, "original_max_position_embeddings", where, 1, kMaxPosition, max_position);
    if (rope.high_frequency_factor <= rope.low_frequency_factor) {
      fail_input("{}: high_freq_factor {} must be larger than low_freq_factor {}", where,
                 rope.high_frequency_factor, rope.low_frequency_factor);
    }
    return rope;
  }
  // Position interpolation by a factor of one is no interpolation.
  if ((type == "linear" || type == "dynamic") && factor == 1.0) return rope;
  fail_input("{}: rope type \"{}\" with factor {} is not supported (default and llama3 are)", where,
             printable(type), factor);
}

bool same_rope(const RopeConfig& a, const RopeConfig& b) {
  return a.theta == b.theta && a.scaling == b.scaling && a.factor == b.factor &&
         a.low_frequency_factor == b.low_frequency_factor &&
         a.high_frequency_factor == b.high_frequency_factor &&
         a.original_max_position == b.original_max_position;
}

RopeConfig read_rope(const Json& root, const std::string& file, std::int64_t max_position) {
  const double theta = json_number_or(root, "rope_theta", file, 1.0, 1e12, 10000.0);
  std::optional<RopeConfig> rope;
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const Json* object = json_object_or_null(root, key, file);
    if (object == nullptr) continue;
    const RopeConfig found = read_rope_object(*object, file + ": " + key, theta, max_position);
    if (rope && !same_rope(*rope, found))
      fail_input("{}: rope_parameters and rope_scaling contradict each other", file);
    rope = found;
  }
  if (!rope) {
    rope.emplace();
    rope->theta = theta;
  }
  if (given(root, "rope_theta") && rope->theta != theta) {
    fail_input("{}: rope_theta is {}, but {} inside rope_parameters", file, theta, rope->theta);
  }
  return *rope;
}

// Refuses a sliding window that some layer really has and that is shorter than the longest sequence.
void check_sliding_window(const Json& root, const ModelConfig& config, const std::string& file) {
  const std::int64_t window = json_int_or(root, "sliding_window", file, 0, kMaxPosition, 0);
  const bool short_window = window > 0 && window < config.max_position;
  const auto types = root.find("layer_types");
  if (types != root.end() && !types->is_null()) {
    if (!types->is_array() || static_cast<std::int64_t>(types->size()) != config.layers) {
      fail_input("{}: layer_types: a list of {} names is needed, found {}", file, config.layers,
                 shown(*types));
    }
    for (std::size_t i = 0; i < types->size(); ++i) {
      const Json& type = (*types)[i];
      const bool full =
          type == "full_attention" || (type == "sliding_attention" && window > 0 && !short_window);
      if (!full) {
        fail_input("{}: layer_types[{}] = {} is not supported (only full_attention{})", file, i, shown(type),
                   short_window ? fmt::format("; the window of {} is shorter than max_position_embeddings {}",
                                              window, config.max_position)
                                : "");
      }
    }
    return;
  }
  // Llama has no sliding window whatever the key says; Qwen uses it from layer max_window_layers on, when
  // switched on.
  const bool on = config.family != Family::kLlama && json_bool_or(root, "use_sliding_window", file, false);
  const std::int64_t first = json_int_or(root, "max_window_layers", file, 0, kMaxPosition, 28);
  if (on && short_window && first < config.layers) {
    fail_input(
        "{}: use_sliding_window is true: layers {} to {} attend to {} tokens only, which is not supported",
        file, first, config.layers - 1, window);
  }
}

DType read_dtype(const Json& root, const std::string& file) {
  const std::string old_name = json_string_or(root, "torch_dtype", file, "");
  std::string name = json_string_or(root, "dtype", file, old_name);
  if (!old_name.empty() && name != old_name) {
    fail_input("{}: dtype \"{}\" and torch_dtype \"{}\" contradict each other", file, printable(name),
               printable(old_name));
  }
  if (name.rfind("torch.", 0) == 0) name.erase(0, 6);
  if (name.empty() || name == "bfloat16") return DType::kBF16;
  if (name == "float16") return DType::kF16;
  if (name == "float32") return DType::kF32;
  fail_input("{}: dtype \"{}\" is not supported (bfloat16, float16 and float32 are)", file, printable(name));
}

// A token id, a list of them, or null; -1 (an old way to say "none") is dropped.
std::vector<std::int64_t> read_tokens(const Json& root, const char* key, const std::string& file) {
  std::vector<std::int64_t> tokens;
  if (!given(root, key)) return tokens;
  const Json& value = root.at(key);
  const auto add = [&](const Json& item) {
    const bool fits =
        item.is_number_integer() &&
        (item.is_number_unsigned() ? item.get<std::uint64_t>() <= static_cast<std::uint64_t>(kMaxPosition)
                                   : item.get<std::int64_t>() >= -1);
    if (!fits) {
      fail_input("{}: {}: a token id from 0 to {} is needed, found {}", file, key, kMaxPosition, shown(item));
    }
    const auto id = item.get<std::int64_t>();
    if (id >= 0 && std::ranges::find(tokens, id) == tokens.end()) tokens.push_back(id);
  };
  if (!value.is_array()) {
    add(value);
  } else {
    if (value.size() > 1000) fail_input("{}: {} lists {} token ids (at most 1000)", file, key, value.size());
    for (const Json& item : value) add(item);
  }
  return tokens;
}

void read_heads(const Json& root, const std::string& file, ModelConfig& config) {
  config.heads = json_int(root, "num_attention_heads", file, 1, kMaxHeads);
  // Qwen's classes have a default of 32 for a missing key, which fits no model but one: it must be there.
  config.kv_heads = config.family == Family::kLlama || root.contains("num_key_value_heads")
                        ? json_int_or(root, "num_key_value_heads", file, 1, kMaxHeads, config.heads)
                        : json_int(root, "num_key_value_heads", file, 1, kMaxHeads);
  if (config.heads % config.kv_heads != 0) {
    fail_input("{}: num_attention_heads {} is no multiple of num_key_value_heads {}", file, config.heads,
               config.kv_heads);
  }
  if (given(root, "head_dim")) {
    config.head_dim = json_int(root, "head_dim", file, 2, kMaxHeadDim);
  } else if (config.family == Family::kQwen3 && !root.contains("head_dim")) {
    config.head_dim = 128;  // what Qwen3's configuration class takes
  } else {
    if (config.hidden % config.heads != 0) {
      fail_input("{}: hidden_size {} is no multiple of num_attention_heads {}, and there is no head_dim",
                 file, config.hidden, config.heads);
    }
    config.head_dim = config.hidden / config.heads;
  }
  if (config.head_dim % 2 != 0 || config.head_dim > kMaxHeadDim) {
    fail_input("{}: head_dim {} must be even and at most {} (rotary embedding works on pairs)", file,
               config.head_dim, kMaxHeadDim);
  }
}

}  // namespace

std::string_view family_name(Family family) {
  for (const FamilyNames& names : kFamilies) {
    if (names.family == family) return names.architecture;
  }
  return "?";
}

ModelConfig parse_model_config(std::string_view config_json, const std::string& file) {
  const Json root = parse_json(config_json, file);
  if (!root.is_object()) fail_input("{}: an object is needed, found {}", file, shown(root));
  ModelConfig config;
  config.family = read_family(root, file);
  check_table(root, config.family, file, config.unknown_keys);
  config.hidden = json_int(root, "hidden_size", file, 1, kMaxWidth);
  config.intermediate = json_int(root, "intermediate_size", file, 1, kMaxIntermediate);
  config.layers = json_int(root, "num_hidden_layers", file, 1, kMaxLayers);
  config.vocab = json_int(root, "vocab_size", file, 1, kMaxVocab);
  const std::int64_t default_length = config.family == Family::kLlama ? 2048 : 32768;
  config.max_position = json_int_or(root, "max_position_embeddings", file, 1, kMaxPosition, default_length);
  read_heads(root, file, config);
  config.rms_eps = json_number_or(root, "rms_norm_eps", file, 0.0, 1.0, 1e-6);
  config.rope = read_rope(root, file, config.max_position);
  config.tied_embeddings = json_bool_or(root, "tie_word_embeddings", file, false);
  config.qkv_bias = config.family == Family::kQwen2;
  config.qk_norm = config.family == Family::kQwen3;
  check_sliding_window(root, config, file);
  config.dtype = read_dtype(root, file);
  const std::vector<std::int64_t> bos = read_tokens(root, "bos_token_id", file);
  config.bos_token = bos.empty() ? -1 : bos.front();
  config.eos_tokens = read_tokens(root, "eos_token_id", file);
  return config;
}

std::vector<std::int64_t> parse_generation_eos(std::string_view generation_config_json,
                                               const std::string& file) {
  const Json root = parse_json(generation_config_json, file);
  if (!root.is_object()) fail_input("{}: an object is needed, found {}", file, shown(root));
  return read_tokens(root, "eos_token_id", file);
}

}  // namespace slidesparse
