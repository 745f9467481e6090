#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "model/calibrator.h"
#include "model/config.h"

namespace slidesparse {

// How much a model's predictions change when one fused group alone has other weights: the groups are tried
// layer by layer, each between the unchanged layers before and behind it. The layers before are run once, so
// that a trial costs what is left of the model.
class LossProbe {
 public:
  // directory: a plain BF16, FP16 or FP32 model; tokens [samples * length]. Predictions are compared at about
  // `positions` tokens, evenly spread. Throws kInput for token ids outside the vocabulary, kUsage for lengths
  // below 1 or above max_position.
  LossProbe(const ModelConfig& config, const std::filesystem::path& directory,
            std::span<const std::int32_t> tokens, std::int64_t length, std::int64_t positions);
  ~LossProbe();

  // Bytes that it holds besides one step's scratch: residual stream and logits.
  static std::int64_t held_bytes(const ModelConfig& config, std::int64_t tokens, std::int64_t positions);

  // Of the groups that are tried now.
  std::int64_t layer() const;
  // Mean over the positions of KL(unchanged || changed) of the next token's distribution, in nats, with the
  // weights `members` of a group of layer(): BF16 [n, k] each, in the order of the weight table.
  double divergence(GroupInput group, std::span<const std::uint16_t* const> members);
  // The same with the last bit of about every second weight of q, k and v flipped: activations are rounded to
  // BF16, so any change at all, however small, shows up as about so much.
  double rounding();
  // Goes on to the next layer's groups.
  void end_layer();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace slidesparse
