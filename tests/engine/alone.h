#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/sampler.h"
#include "model/model.h"

// The oracle of the engine: one sequence, one loop, Model::forward and the sampling rules; no scheduler, no
// pages to share, no runner.
namespace slidesparse::test {

// Draws one request's tokens, one after the other.
class Sampler {
 public:
  // `index`: how many tokens the request has already, when it goes on.
  explicit Sampler(const SamplingOptions& options, std::uint64_t index = 0);
  // Tokens of the prompt, or those drawn before: the penalty counts them. Drawn tokens enter by themselves.
  void see(std::span<const std::int32_t> tokens);
  // logits [vocab]. Throws kInput when every logit is NaN or -inf.
  std::int32_t sample(std::span<const float> logits);

 private:
  void see_token(std::int32_t token);

  SampleRow row_;
  std::vector<std::uint32_t> seen_;  // bitmap, as long as it has to be so far
};

struct AloneOptions {
  std::int64_t max_tokens = 128;  // new tokens at most
  SamplingOptions sampling;
  std::vector<std::int64_t> stop_tokens;
  std::int64_t prefill_chunk = 1024;  // tokens of the prompt that go through the model at once
};

struct AloneResult {
  std::vector<std::int32_t> tokens;        // new tokens, the stop token not included
  std::vector<std::vector<float>> logits;  // [tokens][vocab] that each was drawn from
  StopReason reason = StopReason::kMaxTokens;
};

AloneResult generate_alone(const Model& model, std::span<const std::int32_t> prompt,
                           const AloneOptions& options);

}  // namespace slidesparse::test
