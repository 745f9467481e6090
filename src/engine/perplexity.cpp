#include <algorithm>
#include <cmath>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/fail.h"
#include "core/interrupt.h"
#include "core/samples.h"
#include "engine/evaluate.h"
#include "engine/sequences.h"
#include "model/decoder.h"
#include "ops/elementwise.h"

namespace slidesparse {
namespace {

// Tokens of one step: short windows are batched up to it, long ones are fed in chunks of it.
constexpr std::int64_t kStepTokens = 2048;
constexpr std::int64_t kPageSize = 64;

std::int64_t windows_per_step(std::int64_t window) {
  return std::max<std::int64_t>(1, kStepTokens / window);
}

// Tokens of a window of a text of so many; checks both.
std::int64_t checked_window(const ModelConfig& config, std::int64_t tokens,
                            const PerplexityOptions& options) {
  if (options.window < 2 || options.window > config.max_position) {
    fail(ErrorKind::kUsage, "window {}: 2 to {} (the model's positions) are possible", options.window,
         config.max_position);
  }
  if (options.max_windows < 0)
    fail(ErrorKind::kUsage, "max windows {}: 0 (all) or more", options.max_windows);
  if (tokens < 2) fail_input("the text has {} tokens; at least 2 are needed", tokens);
  return std::min(options.window, tokens);
}

// Sums of negative log likelihoods of windows first, first + 1, ... (one a sequence).
class WindowScorer {
 public:
  WindowScorer(const Model& model, std::int64_t window)
      : model_(model),
        window_(window),
        per_step_(windows_per_step(window)),
        blocks_(ceil_div(window, kPageSize)),
        cache_(model.config(), per_step_ * blocks_, kPageSize, model.device()),
        step_(blocks_) {
    context_.arena = &arena_;
  }

  std::int64_t per_step() const { return per_step_; }

  void score(std::span<const std::int32_t> tokens, std::int64_t first, std::span<double> sums) {
    std::ranges::fill(sums, 0.0);
    for (std::int64_t begin = 0; begin < window_; begin += kStepTokens) {
      const std::int64_t end = std::min(begin + kStepTokens, window_);
      step_.clear();
      targets_.clear();
      for (std::size_t w = 0; w < sums.size(); ++w) {
        const auto window =
            tokens.subspan(static_cast<std::size_t>((first + static_cast<std::int64_t>(w)) * window_),
                           static_cast<std::size_t>(window_));
        const auto table = consecutive_pages(static_cast<std::int64_t>(w) * blocks_, blocks_);
        step_.add(window.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)),
                  begin, table);
        const std::int64_t predicted = std::min(end, window_ - 1) - begin;  // the last token predicts nothing
        step_.want(0, predicted);
        for (std::int64_t i = 1; i <= predicted; ++i)
          targets_.push_back(window[static_cast<std::size_t>(begin + i)]);
      }
      log_probabilities_.resize(targets_.size());
      model_.forward_blocks(context_, step_.batch(), cache_, [&](std::int64_t row, const TensorView& logits) {
        const auto offset = static_cast<std::size_t>(row);
        const auto count = static_cast<std::size_t>(logits.dim(0));
        token_log_probabilities(context_, logits, std::span(targets_).subspan(offset, count),
                                std::span(log_probabilities_).subspan(offset, count));
      });
      const std::size_t each = targets_.size() / sums.size();
      for (std::size_t i = 0; i < targets_.size(); ++i) sums[i / each] -= log_probabilities_[i];
    }
  }

 private:
  const Model& model_;
  std::int64_t window_;
  std::int64_t per_step_;
  std::int64_t blocks_;
  KvCache cache_;
  StepBuilder step_;
  Arena arena_;
  Context context_;
  std::vector<std::int32_t> targets_;
  std::vector<double> log_probabilities_;
};

void finish(PerplexityResult& result) {
  const auto n = static_cast<double>(result.window_nll.size());
  double sum = 0;
  for (const double nll : result.window_nll) sum += nll;
  result.mean_nll = sum / n;
  double squares = 0;
  for (const double nll : result.window_nll) squares += (nll - result.mean_nll) * (nll - result.mean_nll);
  result.mean_nll_error = n > 1 ? std::sqrt(squares / (n - 1) / n) : 0.0;
  result.perplexity = std::exp(result.mean_nll);
  result.perplexity_error = result.perplexity * result.mean_nll_error;
  result.tokens_per_second =
      result.seconds > 0 ? static_cast<double>(result.windows * result.window) / result.seconds : 0;
}

}  // namespace

EvalSizes perplexity_sizes(const ModelConfig& config, std::int64_t tokens, const PerplexityOptions& options) {
  const std::int64_t window = checked_window(config, tokens, options);
  EvalSizes sizes;
  sizes.sequences = windows_per_step(window);
  sizes.step_tokens = sizes.sequences * std::min(window, kStepTokens);
  sizes.longest = window;
  sizes.page_size = kPageSize;
  sizes.pages = sizes.sequences * ceil_div(window, kPageSize);
  sizes.logit_rows = std::min(logit_block_rows(config), sizes.step_tokens);
  return sizes;
}

PerplexityResult evaluate_perplexity(const Model& model, std::span<const std::int32_t> tokens,
                                     const PerplexityOptions& options, const EvalProgress& progress) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  PerplexityResult result;
  result.window = checked_window(model.config(), count, options);
  result.windows = count / result.window;
  if (options.max_windows > 0) result.windows = std::min(result.windows, options.max_windows);
  result.predictions = result.windows * (result.window - 1);

  WindowScorer scorer(model, result.window);
  for (std::int64_t first = 0; first < result.windows; first += scorer.per_step()) {
    check_interrupt("nothing was kept; run the same command again");
    std::vector<double> sums(static_cast<std::size_t>(std::min(scorer.per_step(), result.windows - first)));
    const double start = now_seconds();
    scorer.score(tokens, first, sums);
    result.seconds += now_seconds() - start;
    for (const double sum : sums) result.window_nll.push_back(sum / static_cast<double>(result.window - 1));
    if (progress) progress(static_cast<std::int64_t>(result.window_nll.size()), result.windows);
  }
  finish(result);
  return result;
}

}  // namespace slidesparse
