#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include "engine/sampler.h"
#include "engine/stop_reason.h"
#include "model/model.h"

namespace slidesparse {

struct GenerateOptions {
  std::int64_t max_tokens = 128;  // new tokens at most
  SamplingOptions sampling;
  std::vector<std::int64_t> stop_tokens;  // see stop_tokens_of(); empty: never stop early
  std::int64_t prefill_chunk = 1024;      // tokens of the prompt that go through the model at once
};

struct GenerateResult {
  std::vector<std::int32_t> tokens;  // new tokens, the stop token not included
  StopReason reason = StopReason::kMaxTokens;
  std::int64_t prompt_tokens = 0;
  double prefill_seconds = 0;     // up to the first logits
  double decode_seconds = 0;      // all steps after that
  std::int64_t decode_steps = 0;  // forward passes of one token
  double prefill_tokens_per_second() const {
    return prefill_seconds > 0 ? static_cast<double>(prompt_tokens) / prefill_seconds : 0;
  }
  double decode_tokens_per_second() const {
    return decode_seconds > 0 ? static_cast<double>(decode_steps) / decode_seconds : 0;
  }
};

// End tokens of a model directory: config.json's and generation_config.json's.
std::vector<std::int64_t> stop_tokens_of(const ModelConfig& config, const std::filesystem::path& directory);

// Continues `prompt` (token ids, not empty). `on_token` gets every new token as it is drawn (not the stop
// token) and returns whether to go on. A Ctrl-C (core/interrupt.h) ends it with kInterrupted and what there
// is so far. Throws kInput for an empty prompt, a prompt that leaves no room below max_position, and token
// ids outside the vocabulary; kUsage for bad options.
GenerateResult generate(const Model& model, std::span<const std::int32_t> prompt,
                        const GenerateOptions& options,
                        const std::function<bool(std::int32_t token)>& on_token = {});

}  // namespace slidesparse
