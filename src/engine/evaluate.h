#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "io/tokenizer/tokenizer.h"
#include "model/model.h"

namespace slidesparse {

// Perplexity over non-overlapping windows: each window is fed alone, its first token is not predicted, so it
// gives window - 1 predictions. A last window that is not full is left out (unless the text is shorter than
// one window: then it is the only one).
struct PerplexityOptions {
  std::int64_t window = 2048;
  std::int64_t max_windows = 0;  // 0: all
};

struct PerplexityResult {
  std::int64_t window = 0;
  std::int64_t windows = 0;
  std::int64_t predictions = 0;    // windows * (window - 1)
  double mean_nll = 0;             // nats a token
  double mean_nll_error = 0;       // standard error over the windows; 0 with one window
  double perplexity = 0;           // exp(mean_nll)
  double perplexity_error = 0;     // perplexity * mean_nll_error
  std::vector<double> window_nll;  // mean of each window
  double seconds = 0;              // in the model
  double tokens_per_second = 0;    // windows * window / seconds
};

// What an evaluation makes ready for, each the most of any of its steps: what memory is planned from before a
// model is on a card.
struct EvalSizes {
  std::int64_t step_tokens = 1;
  std::int64_t sequences = 1;   // of a step
  std::int64_t longest = 1;     // tokens of a sequence
  std::int64_t pages = 1;       // of the KV cache
  std::int64_t page_size = 64;  // tokens
  std::int64_t logit_rows = 1;  // held at a time
};

// Called after each window or task with how many are done of how many.
using EvalProgress = std::function<void(std::int64_t done, std::int64_t total)>;

// Throws kInput when `tokens` has fewer than 2, kUsage for a window below 2 or above max_position;
// kInterrupted.
PerplexityResult evaluate_perplexity(const Model& model, std::span<const std::int32_t> tokens,
                                     const PerplexityOptions& options, const EvalProgress& progress = {});

// Of that, on any device; throws as it does for options and texts that cannot be.
EvalSizes perplexity_sizes(const ModelConfig& config, std::int64_t tokens, const PerplexityOptions& options);

struct HellaSwagTask {
  std::string context;
  std::array<std::string, 4> endings;  // without the space that joins them to the context
  int label = 0;
};

// The official jsonl (ctx or ctx_a + ctx_b, endings, label, activity_label; cleaned as lm-evaluation-harness
// does) or llama.cpp's text of six lines a task (context, label, four endings), told apart by the first
// character. Throws kInput with file and line.
std::vector<HellaSwagTask> read_hellaswag(const std::filesystem::path& file, std::int64_t max_tasks = 0);

// What was found out about one task. Endings are counted from 0; of equals the first is chosen.
struct HellaSwagChoice {
  int label = 0;
  int chosen = 0;                           // largest sum
  int chosen_norm = 0;                      // largest sum divided by the ending's length in characters
  std::array<double, 4> log_likelihoods{};  // sums over the ending's tokens, nats
};

struct HellaSwagResult {
  std::int64_t tasks = 0;
  double accuracy = 0;        // acc: the ending with the largest sum of log probabilities
  double accuracy_error = 0;  // standard error
  double accuracy_norm = 0;   // acc_norm: sums divided by the ending's length in characters
  double accuracy_norm_error = 0;
  std::int64_t tokens = 0;  // that went through the model
  double seconds = 0;
  std::vector<HellaSwagChoice> choices;  // one a task
};

HellaSwagResult evaluate_hellaswag(const Model& model, const Tokenizer& tokenizer,
                                   std::span<const HellaSwagTask> tasks, const EvalProgress& progress = {});

// Of that, on a device of that kind; the tasks are encoded for it.
EvalSizes hellaswag_sizes(const ModelConfig& config, const Tokenizer& tokenizer,
                          std::span<const HellaSwagTask> tasks, DeviceKind device);

}  // namespace slidesparse
