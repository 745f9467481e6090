#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/sample_rules.h"
#include "slidesparse/engine/request.h"

// Draws tokens on the CPU, by the rules of core/sample_rules.h; the card's sampler is checked against this
// one.
namespace slidesparse {

// Throws kUsage for NaN, negative or impossible values, with the accepted range.
void check_sampling_options(const SamplingOptions& options);

// The options as the rules and the card take them, for token number `index` of a request.
SampleRow sample_row(const SamplingOptions& options, std::uint64_t index, std::int32_t slot = 0);

// logits [vocab]; seen [seen_words(vocab)], read when the row has a penalty. -1: every logit is NaN or -inf.
std::int32_t sample_token(const SampleRow& row, std::span<const float> logits,
                          std::span<const std::uint32_t> seen);

// Of token `id` (-inf for -1). logits [vocab].
float token_logprob(std::span<const float> logits, std::int32_t id);
// The n likeliest tokens, descending, ties by id; fewer when fewer can be chosen.
std::vector<TokenLogprob> top_logprobs(std::span<const float> logits, std::int64_t n);

}  // namespace slidesparse
