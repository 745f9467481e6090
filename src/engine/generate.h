#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "model/config.h"
#include "slidesparse/engine/engine.h"

namespace slidesparse {

inline constexpr std::int64_t kPrefillChunk = 1024;  // tokens of a prompt that go through a model at once

struct GenerateResult {
  std::vector<std::int32_t> tokens;  // new tokens, the stop token not included
  StopReason reason = StopReason::kMaxTokens;
  std::int64_t prompt_tokens = 0;
  double prefill_seconds = 0;     // of the steps up to the first token
  double decode_seconds = 0;      // of all after that
  std::int64_t decode_steps = 0;  // those
  double prefill_tokens_per_second() const {
    return prefill_seconds > 0 ? static_cast<double>(prompt_tokens) / prefill_seconds : 0;
  }
  double decode_tokens_per_second() const {
    return decode_seconds > 0 ? static_cast<double>(decode_steps) / decode_seconds : 0;
  }
};

// End tokens of a model directory: config.json's and generation_config.json's.
std::vector<std::int64_t> stop_tokens_of(const ModelConfig& config, const std::filesystem::path& directory);

// Sizes of an engine for one prompt of `prompt_tokens` tokens and up to `max_tokens` new ones, no larger than
// that takes. Throws kUsage for a max_model_len (0: the model's) beyond the model's, kInput for a prompt that
// leaves no room for a new token.
EngineOptions one_request_options(const ModelConfig& config, std::int64_t prompt_tokens,
                                  std::int64_t max_tokens, std::int64_t max_model_len = 0);

// Runs one request to its end on an engine that has no other. `on_event` gets every event as it comes and
// returns whether to go on. A Ctrl-C (core/interrupt.h) ends it with kInterrupted and what there is so far.
// Throws as Engine::submit does, and kInput for a request that fails.
GenerateResult generate(Engine& engine, const GenerationRequest& request,
                        const std::function<bool(const Event& event)>& on_event = {});

}  // namespace slidesparse
