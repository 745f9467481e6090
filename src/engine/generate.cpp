#include "engine/generate.h"

#include <algorithm>

#include "core/fail.h"
#include "core/interrupt.h"
#include "engine/engine_sizes.h"
#include "io/json.h"

namespace slidesparse {
namespace {

// A short prompt takes little memory: pages are small.
constexpr std::int64_t kPageSize = 16;  // tokens

}  // namespace

std::vector<std::int64_t> stop_tokens_of(const ModelConfig& config, const std::filesystem::path& directory) {
  std::vector<std::int64_t> tokens = config.eos_tokens;
  const std::filesystem::path file = directory / "generation_config.json";
  if (std::filesystem::exists(file)) {
    for (const std::int64_t token : parse_generation_eos(read_text_file(file), file.string())) {
      if (std::ranges::find(tokens, token) == tokens.end()) tokens.push_back(token);
    }
  }
  return tokens;
}

EngineOptions one_request_options(const ModelConfig& config, std::int64_t prompt_tokens,
                                  std::int64_t max_tokens, std::int64_t max_model_len) {
  const std::int64_t most = checked_model_len(config, max_model_len);
  if (prompt_tokens >= most) {
    fail_input("the prompt has {} tokens: with a new one they are more than max_model_len {}{}",
               prompt_tokens, most, max_model_len == 0 ? ", which is the model's" : "");
  }
  EngineOptions options;
  options.max_num_seqs = 1;
  options.max_num_batched_tokens = kPrefillChunk;
  options.page_size = kPageSize;
  options.max_model_len = prompt_tokens + std::clamp<std::int64_t>(max_tokens, 1, most - prompt_tokens);
  // Of an empty prompt, which is refused later.
  options.max_model_len = std::max<std::int64_t>(2, options.max_model_len);
  return options;
}

GenerateResult generate(Engine& engine, const GenerationRequest& request,
                        const std::function<bool(const Event&)>& on_event) {
  GenerateResult result;
  const EngineMetrics before = engine.metrics();
  const std::int64_t id = engine.submit(request);
  EngineMetrics first;
  const auto ended = [&](StopReason reason) {
    const EngineMetrics now = engine.metrics();
    if (first.steps == 0) first = now;
    result.reason = reason;
    result.prompt_tokens = now.prompt_tokens - before.prompt_tokens;
    result.prefill_seconds = first.busy_seconds - before.busy_seconds;
    result.decode_seconds = now.busy_seconds - first.busy_seconds;
    result.decode_steps = now.steps - first.steps;
    return result;
  };
  while (true) {
    if (interrupt_requested()) {
      engine.cancel(id);
      return ended(StopReason::kInterrupted);
    }
    const std::optional<Event> event = engine.poll();
    if (!event) {
      require(engine.step(), "request {} ended without a word", id);
      continue;
    }
    if (first.steps == 0) first = engine.metrics();
    if (event->kind == EventKind::kFailed) fail_input("{}", event->error);
    if (event->kind == EventKind::kToken) result.tokens.push_back(event->token);
    const bool go_on = !on_event || on_event(*event);
    if (event->kind == EventKind::kFinished) return ended(event->reason);
    if (!go_on) {
      engine.cancel(id);
      return ended(StopReason::kCaller);
    }
  }
}

}  // namespace slidesparse
