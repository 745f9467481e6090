#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/sample_rules.h"

// Draws tokens on the CPU, by the rules of core/sample_rules.h; the card's sampler is checked against this
// one.
namespace slidesparse {

// How the next token is drawn from logits. Used as FP32.
struct SamplingOptions {
  double temperature = 0.0;         // 0: greedy
  std::int64_t top_k = 0;           // only the k largest; 0: all
  double top_p = 1.0;               // only the smallest set whose probabilities reach p
  double min_p = 0.0;               // only tokens with this share of the likeliest one's probability
  double repetition_penalty = 1.0;  // of tokens in the prompt or the output; 1: none
  std::uint64_t seed = 0;
};

// Throws kUsage for NaN, negative or impossible values, with the accepted range.
void check_sampling_options(const SamplingOptions& options);

// The options as the rules and the card take them, for token number `index` of a request.
SampleRow sample_row(const SamplingOptions& options, std::uint64_t index, std::int32_t slot = 0);

// logits [vocab]; seen [seen_words(vocab)], read when the row has a penalty. -1: every logit is NaN or -inf.
std::int32_t sample_token(const SampleRow& row, std::span<const float> logits,
                          std::span<const std::uint32_t> seen);

struct TokenLogprob {
  std::int32_t id = -1;
  float logprob = 0;
};
// Of token `id` (-inf for -1). logits [vocab].
float token_logprob(std::span<const float> logits, std::int32_t id);
// The n likeliest tokens, descending, ties by id; fewer when fewer can be chosen.
std::vector<TokenLogprob> top_logprobs(std::span<const float> logits, std::int64_t n);

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

}  // namespace slidesparse
