#include "engine/alone.h"

#include <algorithm>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/fail.h"
#include "engine/sequences.h"

namespace slidesparse::test {
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
        logits_(static_cast<std::size_t>(model.config().vocab)) {
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

  const std::vector<float>& logits() const { return logits_; }
  std::int64_t length() const { return length_; }

 private:
  const Model& model_;
  std::int64_t pages_;
  KvCache cache_;
  std::vector<std::int32_t> table_;
  StepBuilder step_;
  std::vector<float> logits_;
  Arena arena_;
  Context context_;
  std::int64_t length_ = 0;
};

}  // namespace

AloneResult generate_alone(const Model& model, std::span<const std::int32_t> prompt,
                           const AloneOptions& options) {
  const auto prompt_length = static_cast<std::int64_t>(prompt.size());
  const std::int64_t max_position = model.config().max_position;
  // The last new token is drawn but never fed.
  SequenceRun run(model, prompt_length + std::clamp<std::int64_t>(options.max_tokens - 1, 0,
                                                                  max_position - prompt_length));
  for (std::int64_t begin = 0; begin < prompt_length; begin += options.prefill_chunk) {
    const std::int64_t count = std::min(options.prefill_chunk, prompt_length - begin);
    run.feed(prompt.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)),
             begin + count == prompt_length);
  }
  Sampler sampler(options.sampling);
  sampler.see(prompt);
  AloneResult result;
  while (static_cast<std::int64_t>(result.tokens.size()) < options.max_tokens) {
    const std::int32_t token = sampler.sample(run.logits());
    if (std::ranges::find(options.stop_tokens, token) != options.stop_tokens.end()) {
      result.reason = StopReason::kStopToken;
      return result;
    }
    result.tokens.push_back(token);
    result.logits.push_back(run.logits());
    if (static_cast<std::int64_t>(result.tokens.size()) == options.max_tokens) return result;
    if (run.length() >= max_position) {
      result.reason = StopReason::kMaxModelLen;
      return result;
    }
    run.feed({&token, 1}, true);
  }
  return result;
}

Sampler::Sampler(const SamplingOptions& options, std::uint64_t index) {
  check_sampling_options(options);
  row_ = sample_row(options, index);
}

void Sampler::see_token(std::int32_t token) {
  const auto word = static_cast<std::size_t>(token / 32);
  if (word >= seen_.size()) seen_.resize(word + 1);
  seen_[word] |= 1u << (token % 32);
}

void Sampler::see(std::span<const std::int32_t> tokens) {
  for (const std::int32_t token : tokens) {
    if (token >= 0) see_token(token);
  }
}

std::int32_t Sampler::sample(std::span<const float> logits) {
  const auto words = static_cast<std::size_t>(seen_words(static_cast<std::int64_t>(logits.size())));
  if (seen_.size() < words) seen_.resize(words);
  const std::int32_t token = sample_token(row_, logits, seen_);
  if (token < 0) fail_input("the model's logits are all NaN or -inf: its weights are damaged");
  ++row_.index;
  see_token(token);
  return token;
}

}  // namespace slidesparse::test
