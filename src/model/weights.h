#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/shape.h"
#include "model/config.h"

namespace slidesparse {

// Whether random layers have linears of their own, or all those of the first: on a card, where each layer is
// copied, that makes no difference to speed, and loading takes a fraction of the time. In host memory, which
// linears are views of, it would: the caches would see one layer.
enum class RandomLayers { kOwn, kRepeated };
// What runs that are about speed take.
constexpr RandomLayers layers_for_speed(DeviceKind device) {
  return device == DeviceKind::kCuda ? RandomLayers::kRepeated : RandomLayers::kOwn;
}

// One linear layer that is pruned and quantised: weight NAME.weight [n, k].
struct LinearSpec {
  std::string name;  // "model.layers.3.self_attn.q_proj"
  std::int64_t n = 0;
  std::int64_t k = 0;
  bool bias = false;
};

// Linears that read the same input; they share pattern, layout and (split) permutation.
struct FusedGroup {
  std::string name;       // "model.layers.3.self_attn.qkv", ".o", "model.layers.3.mlp.gate_up", ".down"
  std::string perm_name;  // split layout: tensor with the permutation, "model.layers.3.self_attn.qkv.perm"
  std::vector<LinearSpec> members;
  std::int64_t layer = 0;
};

// A tensor that stays as it is: embedding, head, norms, biases.
struct PlainSpec {
  std::string name;
  Shape shape;
};

// Every tensor that a model of this configuration has, in the order in which the forward pass reads them.
struct WeightTable {
  std::vector<FusedGroup> groups;
  std::vector<PlainSpec> plain;  // without the head
  std::string embedding;         // "model.embed_tokens.weight" [vocab, hidden]
  std::string head;  // "lm_head" ; its weight is lm_head.weight [vocab, hidden], or the embedding when tied
};
WeightTable weight_table(const ModelConfig& config);

}  // namespace slidesparse
