#include <algorithm>
#include <array>
#include <deque>
#include <unordered_map>
#include <vector>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/fail.h"
#include "engine/card_step_runner.h"
#include "engine/sampler.h"
#include "engine/step_runner.h"

namespace slidesparse {
namespace {

// Steps are done when they are started.
class CpuStepRunner final : public StepRunner {
 public:
  CpuStepRunner(const Model& model, const RunnerLimits& limits)
      : model_(model),
        max_blocks_(ceil_div(limits.max_context, limits.page_size)),
        cache_(model.config(), limits.pages, limits.page_size, {}, limits.kv) {
    context_.arena = &arena_;
  }

  std::int64_t max_blocks() const override { return max_blocks_; }
  int most_logprobs() const override { return kMostLogprobs; }

  void start(const Batch& batch, std::span<const DrawRow> rows) override {
    require(rows.size() == batch.wanted_rows.size() && done_.size() < 2, "step: {} rows of {}, {} under way",
            rows.size(), batch.wanted_rows.size(), done_.size());
    tokens_.assign(batch.tokens.begin(), batch.tokens.end());
    for (std::int32_t& token : tokens_) {
      if (token >= 0) continue;
      const auto row = static_cast<std::size_t>(-1 - token);
      token = row < drawn_[last_].tokens.size() ? drawn_[last_].tokens[row] : -1;
    }
    Batch resolved = batch;
    resolved.tokens = tokens_;
    const std::int64_t vocab = model_.config().vocab;
    logits_.resize(rows.size() * static_cast<std::size_t>(vocab));
    model_.forward(context_, resolved, cache_,
                   TensorView::contiguous(static_cast<void*>(logits_.data()), DType::kF32,
                                          {static_cast<std::int64_t>(rows.size()), vocab}));
    last_ = 1 - last_;
    Drawn& drawn = drawn_[last_];
    drawn.tokens.clear();
    drawn.logprobs.clear();
    if (std::ranges::any_of(rows, [](const DrawRow& row) { return row.logprobs >= 0; }))
      drawn.logprobs.resize(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto logits = std::span<const float>(logits_).subspan(i * static_cast<std::size_t>(vocab),
                                                                  static_cast<std::size_t>(vocab));
      const SampleRow& row = rows[i].sample;
      std::span<std::uint32_t> seen;
      if (row.repetition_penalty != 1) seen = seen_of(row.slot);
      const std::int32_t token = sample_token(row, logits, seen);
      drawn.tokens.push_back(token);
      if (!seen.empty() && token >= 0) seen[static_cast<std::size_t>(token / 32)] |= 1u << (token % 32);
      if (rows[i].logprobs >= 0)
        drawn.logprobs[i] = {token_logprob(logits, token), top_logprobs(logits, rows[i].logprobs)};
    }
    done_.push_back(last_);
  }

  DrawnRows finish() override {
    require(!done_.empty(), "no step is under way");
    const std::size_t which = done_.front();
    done_.pop_front();
    return {drawn_[which].tokens, drawn_[which].logprobs};
  }

  void see(std::int32_t slot, std::span<const std::int32_t> tokens) override {
    const std::span<std::uint32_t> seen = seen_of(slot);
    std::fill(seen.begin(), seen.end(), 0u);
    for (const std::int32_t token : tokens) {
      if (token >= 0 && token < model_.config().vocab)
        seen[static_cast<std::size_t>(token / 32)] |= 1u << (token % 32);
    }
  }

 private:
  struct Drawn {
    std::vector<std::int32_t> tokens;
    std::vector<RowLogprobs> logprobs;  // empty, or one a row
  };

  std::span<std::uint32_t> seen_of(std::int32_t slot) {
    std::vector<std::uint32_t>& words = seen_[slot];
    words.resize(static_cast<std::size_t>(seen_words(model_.config().vocab)));
    return words;
  }

  const Model& model_;
  std::int64_t max_blocks_;
  KvCache cache_;
  Arena arena_;
  Context context_;
  std::vector<std::int32_t> tokens_;
  std::vector<float> logits_;
  std::array<Drawn, 2> drawn_;
  std::size_t last_ = 0;
  std::deque<std::size_t> done_;
  std::unordered_map<std::int32_t, std::vector<std::uint32_t>> seen_;
};

}  // namespace

std::unique_ptr<StepRunner> make_step_runner(const Model& model, const RunnerLimits& limits) {
  if (limits.max_tokens < 1 || limits.max_sequences < 1 || limits.max_context < 1 || limits.pages < 1 ||
      limits.page_size < 1) {
    fail(ErrorKind::kUsage,
         "a runner for {} tokens, {} sequences, contexts of {}, {} pages of {}: at least 1 each",
         limits.max_tokens, limits.max_sequences, limits.max_context, limits.pages, limits.page_size);
  }
  if (model.device().kind == DeviceKind::kCuda) return make_card_step_runner(model, limits);
  return std::make_unique<CpuStepRunner>(model, limits);
}

}  // namespace slidesparse
