#include "model/weights.h"

#include <fmt/core.h>

namespace slidesparse {
namespace {

FusedGroup group_of(const std::string& name, std::int64_t layer) {
  return {name, name + ".perm", {}, layer};
}

}  // namespace

WeightTable weight_table(const ModelConfig& config) {
  const std::int64_t q = config.heads * config.head_dim;
  const std::int64_t kv = config.kv_heads * config.head_dim;
  WeightTable table;
  table.embedding = "model.embed_tokens.weight";
  table.head = "lm_head";
  table.plain.push_back({table.embedding, {config.vocab, config.hidden}});
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    const std::string attention = layer + "self_attn.";
    const std::string mlp = layer + "mlp.";

    table.plain.push_back({layer + "input_layernorm.weight", {config.hidden}});
    FusedGroup qkv = group_of(attention + "qkv", i);
    qkv.members = {{attention + "q_proj", q, config.hidden, config.qkv_bias},
                   {attention + "k_proj", kv, config.hidden, config.qkv_bias},
                   {attention + "v_proj", kv, config.hidden, config.qkv_bias}};
    if (config.qkv_bias) {
      for (const LinearSpec& member : qkv.members) table.plain.push_back({member.name + ".bias", {member.n}});
    }
    if (config.qk_norm) {
      table.plain.push_back({attention + "q_norm.weight", {config.head_dim}});
      table.plain.push_back({attention + "k_norm.weight", {config.head_dim}});
    }
    table.groups.push_back(std::move(qkv));
    FusedGroup o = group_of(attention + "o", i);
    o.members = {{attention + "o_proj", config.hidden, q}};
    table.groups.push_back(std::move(o));

    table.plain.push_back({layer + "post_attention_layernorm.weight", {config.hidden}});
    FusedGroup gate_up = group_of(mlp + "gate_up", i);
    gate_up.members = {{mlp + "gate_proj", config.intermediate, config.hidden},
                       {mlp + "up_proj", config.intermediate, config.hidden}};
    table.groups.push_back(std::move(gate_up));
    FusedGroup down = group_of(mlp + "down", i);
    down.members = {{mlp + "down_proj", config.hidden, config.intermediate}};
    table.groups.push_back(std::move(down));
  }
  table.plain.push_back({"model.norm.weight", {config.hidden}});
  return table;
}

}  // namespace slidesparse
