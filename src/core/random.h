#pragma once

#include <cmath>
#include <cstdint>

namespace slidesparse {

// splitmix64: the n-th output depends on seed and n alone, so that any block of a tensor can be made by any
// thread. Not for secrets. The functions are constexpr so that they can be called on the card.
constexpr std::uint64_t random_bits(std::uint64_t seed, std::uint64_t counter) {
  std::uint64_t z = seed + (counter + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// Uniform in [0, 1) with 24 bits.
constexpr float random_uniform(std::uint64_t seed, std::uint64_t counter) {
  return static_cast<float>(random_bits(seed, counter) >> 40) * 0x1p-24f;
}

// About standard normal: the sum of four 16-bit uniforms, centred and scaled (Irwin-Hall of order 4). Cheap,
// bounded by +-3.47, and good enough for weights and activations of speed runs.
constexpr float random_normal(std::uint64_t seed, std::uint64_t counter) {
  const std::uint64_t bits = random_bits(seed, counter);
  const auto sum =
      static_cast<float>((bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) + (bits >> 48));
  // Four uniforms on [0, 65535]: mean 131070, standard deviation 65535 * sqrt(4 / 12).
  return (sum - 131070.0f) * (1.0f / 37836.64f);
}

// A sequential generator over the same function.
class Random {
 public:
  explicit Random(std::uint64_t seed) : seed_(seed) {}
  std::uint64_t bits() { return random_bits(seed_, counter_++); }
  float uniform() { return random_uniform(seed_, counter_++); }
  float normal() { return random_normal(seed_, counter_++); }
  // Uniform in [0, bound), bound > 0.
  std::int64_t below(std::int64_t bound) {
    return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(bound));
  }

 private:
  std::uint64_t seed_;
  std::uint64_t counter_ = 0;
};

}  // namespace slidesparse
