#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/config.h"

namespace slidesparse {

// The places of a layer where linears read one input, in the order in which they run.
enum class GroupInput : int { kQkv, kO, kGateUp, kDown };
inline constexpr int kGroupsPerLayer = 4;

// Runs calibration text through a model layer by layer, holding the activations of all samples and the
// weights of one layer at most: collects what pruning needs to know of the input of each fused group, and
// takes new weights for the group before it goes on, so that every group sees the outputs of the pruned ones
// before it. Each linear runs once a sample. Ops only, no device of its own.
class Calibrator {
 public:
  // directory: a plain BF16, FP16 or FP32 model; tokens [samples * length]. Throws kInput for token ids
  // outside the vocabulary, kUsage for lengths below 1 or above max_position.
  Calibrator(const ModelConfig& config, const std::filesystem::path& directory,
             std::span<const std::int32_t> tokens, std::int64_t length);
  ~Calibrator();

  // Bytes of activations that are held: BF16, the residual stream and one more matrix.
  static std::int64_t activation_bytes(const ModelConfig& config, std::int64_t tokens);

  // The next group's input goes into `moments`, F32: [k], mean of x_c^2, or the lower triangle of [k, k],
  // mean of x x^T. Empty: it is not wanted. Groups come in order; layer() is that of the group. Calls
  // `progress` after each step with the samples that it did. Throws kInput, naming the linears, when an
  // activation is not finite.
  void collect(std::span<float> moments, const std::function<void(std::int64_t samples)>& progress = {});
  // The group's weights from now on, BF16 [n, k] a member, in the order of the weight table; views that live
  // until the next collect() or end_layer() has returned. Empty: those of the model.
  void set_weights(std::span<const std::uint16_t* const> members);
  // After the last group: runs what is left of the layer and goes to the next one.
  void end_layer(const std::function<void(std::int64_t samples)>& progress = {});

  std::int64_t layer() const;
  // The residual stream between two layers, BF16 [samples * length, hidden]: all that resuming needs.
  std::span<const std::byte> state() const;
  // Goes on before `layer` with what state() gave then.
  void restore(std::int64_t layer, std::span<const std::byte> state);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace slidesparse
