#include "engine/generate.h"

#include <algorithm>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/fail.h"
#include "core/interrupt.h"
#include "core/samples.h"
#include "engine/sequences.h"
#include "io/json.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kPageSize = 16;

// One running sequence with a cache of its own.
class SequenceRun {
 public:
  SequenceRun(const Model& model, std::int64_t longest)
      : model_(model),
        pages_(ceil_div(longest, kPageSize)),
        cache_(model.config(), pages_, kPageSize, model.device()),
        table_(consecutive_pages(0, pages_)),
        step_(pages_),
        logits_(static_cast<std::size_t>(model.config().vocab) * sizeof(float)) {
    context_.arena = &arena_;
  }

  // Feeds tokens; the logits of the last one are wanted or not.
  void feed(std::span<const std::int32_t> tokens, bool want) {
    step_.clear();
    step_.add(tokens, length_, table_);
    if (want) step_.want_last();
    model_.forward(context_, step_.batch(), cache_,
                   TensorView::contiguous(static_cast<void*>(logits_.data()), DType::kF32,
                                          {step_.wanted(), model_.config().vocab}));
    length_ += static_cast<std::int64_t>(tokens.size());
  }

  std::span<const float> logits() const {
    return {logits_.as<float>(), static_cast<std::size_t>(model_.config().vocab)};
  }
  std::int64_t length() const { return length_; }

 private:
  const Model& model_;
  std::int64_t pages_;
  KvCache cache_;
  std::vector<std::int32_t> table_;
  StepBuilder step_;
  Buffer logits_;
  Arena arena_;
  Context context_;
  std::int64_t length_ = 0;
};

void check_prompt(const ModelConfig& config, std::span<const std::int32_t> prompt,
                  const GenerateOptions& options) {
  check_sampling_options(options.sampling);
  if (options.max_tokens < 0)
    fail(ErrorKind::kUsage, "max tokens {}: 0 or more are needed", options.max_tokens);
  if (options.prefill_chunk < 1)
    fail(ErrorKind::kUsage, "prefill chunk {}: at least 1", options.prefill_chunk);
  if (prompt.empty()) fail_input("the prompt has no tokens");
  const auto length = static_cast<std::int64_t>(prompt.size());
  if (length > config.max_position) {
    fail_input("the prompt has {} tokens, the model has {} positions", length, config.max_position);
  }
}

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

GenerateResult generate(const Model& model, std::span<const std::int32_t> prompt,
                        const GenerateOptions& options, const std::function<bool(std::int32_t)>& on_token) {
  const ModelConfig& config = model.config();
  check_prompt(config, prompt, options);
  const auto prompt_length = static_cast<std::int64_t>(prompt.size());
  GenerateResult result;
  result.prompt_tokens = prompt_length;
  // The last new token is drawn but never fed.
  const std::int64_t room = config.max_position - prompt_length;
  SequenceRun run(model, prompt_length + std::clamp<std::int64_t>(options.max_tokens - 1, 0, room));
  Sampler sampler(options.sampling);

  const double start = now_seconds();
  for (std::int64_t begin = 0; begin < prompt_length; begin += options.prefill_chunk) {
    const std::int64_t count = std::min(options.prefill_chunk, prompt_length - begin);
    run.feed(prompt.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)),
             begin + count == prompt_length);
    if (interrupt_requested()) {
      result.reason = StopReason::kInterrupted;
      return result;
    }
  }
  result.prefill_seconds = now_seconds() - start;
  sampler.see(prompt);

  while (true) {
    if (static_cast<std::int64_t>(result.tokens.size()) >= options.max_tokens) {
      result.reason = StopReason::kMaxTokens;
      break;
    }
    const std::int32_t token = sampler.sample(run.logits());
    if (std::ranges::find(options.stop_tokens, token) != options.stop_tokens.end()) {
      result.reason = StopReason::kStopToken;
      break;
    }
    result.tokens.push_back(token);
    if (on_token && !on_token(token)) {
      result.reason = StopReason::kCaller;
      break;
    }
    if (interrupt_requested()) {
      result.reason = StopReason::kInterrupted;
      break;
    }
    if (static_cast<std::int64_t>(result.tokens.size()) >= options.max_tokens) continue;
    if (run.length() >= config.max_position) {
      result.reason = StopReason::kMaxPosition;
      break;
    }
    const double step_start = now_seconds();
    run.feed({&token, 1}, true);
    result.decode_seconds += now_seconds() - step_start;
    ++result.decode_steps;
  }
  return result;
}

}  // namespace slidesparse
