#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/random.h"

namespace slidesparse {

// How the next token is drawn from logits.
struct SamplingOptions {
  double temperature = 0.0;  // 0: greedy
  std::int64_t top_k = 0;    // only the k largest; 0: all
  double top_p = 1.0;        // only the smallest set whose probabilities reach p
  std::uint64_t seed = 0;
};

// Throws kUsage for NaN, negative or impossible values, with the accepted range.
void check_sampling_options(const SamplingOptions& options);

// Draws tokens; the same seed and logits give the same tokens on every machine thread count. Ties go to the
// lower token id.
class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options);
  // logits [vocab]. NaN logits are never drawn; when nothing else is left it throws kInput.
  std::int32_t sample(std::span<const float> logits);

 private:
  struct Candidate {
    float logit;
    std::int32_t id;
  };
  std::int32_t greedy(std::span<const float> logits) const;

  SamplingOptions options_;
  Random random_;
  std::vector<Candidate> candidates_;
  std::vector<double> probabilities_;
};

}  // namespace slidesparse
