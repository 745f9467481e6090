#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "gemm/desc.h"
#include "model/weights.h"

namespace slidesparse {

// Where a model's weights come from. Views stay valid as long as the reader.
class WeightReader {
 public:
  virtual ~WeightReader() = default;
  // A linear of a fused group.
  virtual WeightSource linear(const LinearSpec& spec, const FusedGroup& group) = 0;
  // The same without its values, where that is cheaper: what plans are made from.
  virtual WeightSource linear_shape(const LinearSpec& spec, const FusedGroup& group) {
    return linear(spec, group);
  }
  // A norm [n] or the embedding [vocab, hidden], as BF16.
  virtual TensorView plain(const PlainSpec& spec) = 0;
  // The output projection [vocab, hidden]; `embedding` when it is tied and not quantised.
  virtual WeightSource head(const LinearSpec& spec, const TensorView& embedding) = 0;
  // The same without its values.
  virtual WeightSource head_shape(const LinearSpec& spec) { return head(spec, {}); }
  // "packed directory /models/x", for messages.
  virtual std::string describe() const = 0;
};

// A packed directory, a compressed-tensors W8A8 one, or a plain BF16 / FP16 / FP32 one (run as BF16). With
// `validate`, every byte of packed weights is checked when its linear is read.
std::unique_ptr<WeightReader> open_weights(const std::filesystem::path& directory, const ModelConfig& config,
                                           bool validate);

// Random weights in memory, quantised and packed or split: valid for the pattern, the same for the same seed.
// head: BF16, I8 or F8_E4M3.
std::unique_ptr<WeightReader> random_weights(const ModelConfig& config, DType dtype, Pattern pattern,
                                             DType head, std::uint64_t seed, Layout layout = Layout::kPacked,
                                             RandomLayers layers = RandomLayers::kOwn);

}  // namespace slidesparse
