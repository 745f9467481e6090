#include "model/rotary_frequencies.h"

#include <cmath>
#include <numbers>

namespace slidesparse {
namespace {

// Llama 3.1: wavelengths longer than the training context are stretched by `factor`, short ones are kept,
// those between are interpolated.
double scale_llama3(const RopeConfig& rope, double frequency) {
  const double turns = static_cast<double>(rope.original_max_position) * frequency / (2.0 * std::numbers::pi);
  if (turns < rope.low_frequency_factor) return frequency / rope.factor;
  if (turns > rope.high_frequency_factor) return frequency;
  const double smooth =
      (turns - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor);
  return (1.0 - smooth) * frequency / rope.factor + smooth * frequency;
}

}  // namespace

std::vector<float> rotary_frequencies(const RopeConfig& rope, std::int64_t head_dim) {
  std::vector<float> frequencies;
  for (std::int64_t i = 0; i < head_dim; i += 2) {
    const double frequency = std::pow(rope.theta, -static_cast<double>(i) / static_cast<double>(head_dim));
    frequencies.push_back(static_cast<float>(
        rope.scaling == RopeConfig::Scaling::kLlama3 ? scale_llama3(rope, frequency) : frequency));
  }
  return frequencies;
}

}  // namespace slidesparse
