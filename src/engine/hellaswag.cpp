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

// Tokens of contexts and endings that are run together.
constexpr std::int64_t kGroupTokens = 4096;

struct EncodedTask {
  std::vector<std::int32_t> context;
  std::array<std::vector<std::int32_t>, 4> endings;

  std::int64_t tokens() const {
    std::size_t count = context.size();
    for (const auto& ending : endings) count += ending.size();
    return static_cast<std::int64_t>(count);
  }
};

// The ending's tokens are what encoding both together adds to the context's tokens, as lm-evaluation-harness
// counts them.
EncodedTask encode(const Tokenizer& tokenizer, const HellaSwagTask& task, std::int64_t max_position) {
  EncodedTask encoded;
  std::string context = task.context;
  std::string joint = " ";
  while (context.ends_with(' ')) {  // spaces at the end belong to what follows
    context.pop_back();
    joint += ' ';
  }
  encoded.context = tokenizer.encode(context, true);
  std::size_t longest = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    const std::vector<std::int32_t> whole = tokenizer.encode(context + joint + task.endings[i], true);
    if (whole.size() <= encoded.context.size()) {
      fail_input("HellaSwag: ending \"{}\" adds no token to its context", task.endings[i]);
    }
    encoded.endings[i].assign(whole.begin() + static_cast<std::ptrdiff_t>(encoded.context.size()),
                              whole.end());
    longest = std::max(longest, encoded.endings[i].size());
  }
  const auto room = max_position - static_cast<std::int64_t>(longest);
  if (room < 1)
    fail_input("HellaSwag: an ending of {} tokens does not fit in {} positions", longest, max_position);
  if (static_cast<std::int64_t>(encoded.context.size()) > room) {  // the oldest tokens go
    encoded.context.erase(encoded.context.begin(), encoded.context.end() - static_cast<std::ptrdiff_t>(room));
  }
  return encoded;
}

// As many tasks from number `begin` on as are run together.
std::vector<EncodedTask> next_group(const Tokenizer& tokenizer, std::span<const HellaSwagTask> tasks,
                                    std::size_t begin, std::int64_t max_position) {
  std::vector<EncodedTask> group;
  std::int64_t tokens = 0;
  while (begin + group.size() < tasks.size()) {
    EncodedTask task = encode(tokenizer, tasks[begin + group.size()], max_position);
    if (!group.empty() && tokens + task.tokens() > kGroupTokens) break;
    tokens += task.tokens();
    group.push_back(std::move(task));
  }
  return group;
}

// On the CPU pages hold one token, so that endings share all of their context.
std::int64_t page_size_on(DeviceKind device) {
  return device == DeviceKind::kCpu ? 1 : 16;
}

// What a group takes: see TaskScorer for its two steps.
EvalSizes sizes_of(std::span<const EncodedTask> group, std::int64_t page_size) {
  const auto pages_for = [&](std::int64_t tokens) { return ceil_div(tokens, page_size); };
  EvalSizes sizes;
  sizes.page_size = page_size;
  sizes.pages = 0;
  std::int64_t contexts = 0, endings = 0, sequences = 0, predicted = 0;
  for (const EncodedTask& task : group) {
    const auto length = static_cast<std::int64_t>(task.context.size());
    sizes.pages += pages_for(length);
    contexts += length;
    for (const auto& ending : task.endings) {
      const std::int64_t fed = static_cast<std::int64_t>(ending.size()) - 1;
      sizes.pages += pages_for(length % page_size + fed);
      sizes.longest = std::max(sizes.longest, length + fed + 1);
      if (fed == 0) continue;
      endings += length % page_size + fed;
      predicted += fed;
      ++sequences;
    }
  }
  const auto tasks = static_cast<std::int64_t>(group.size());
  sizes.pages = std::max(sizes.pages, pages_for(kGroupTokens));
  sizes.step_tokens = std::max(contexts, endings);
  sizes.sequences = std::max(tasks, sequences);
  sizes.logit_rows = std::max(tasks, predicted);  // the second step's go in blocks
  return sizes;
}

// Scores tasks in groups: all contexts in one step, then all endings, which share the full pages of their
// context and feed the rest of it once more. On the CPU pages hold one token, so that there is no rest.
class TaskScorer {
 public:
  explicit TaskScorer(const Model& model) : model_(model), page_size_(page_size_on(model.device().kind)) {
    context_.arena = &arena_;
  }

  std::vector<std::array<double, 4>> score(std::span<const EncodedTask> tasks) {
    const EvalSizes sizes = sizes_of(tasks, page_size_);
    if (!cache_ || cache_->pages() < sizes.pages)
      cache_.emplace(model_.config(), sizes.pages, page_size_, model_.device());
    scores_.assign(tasks.size(), {});
    StepBuilder step(pages_for(sizes.longest));
    run_contexts(tasks, step);
    run_endings(tasks, step);
    return scores_;
  }

 private:
  void run_contexts(std::span<const EncodedTask> tasks, StepBuilder& step) {
    std::int64_t page = 0;
    for (const EncodedTask& task : tasks) {
      const auto length = static_cast<std::int64_t>(task.context.size());
      step.add(task.context, 0, consecutive_pages(page, pages_for(length)));
      step.want_last();
      page += pages_for(length);
    }
    next_page_ = page;
    const std::int64_t vocab = model_.config().vocab;
    logits_.resize(tasks.size() * static_cast<std::size_t>(vocab));
    const TensorView logits = TensorView::contiguous(static_cast<void*>(logits_.data()), DType::kF32,
                                                     {static_cast<std::int64_t>(tasks.size()), vocab});
    model_.forward(context_, step.batch(), *cache_, logits);
    // The context's last token predicts the first of each ending.
    probabilities_.resize(tasks.size());
    for (std::size_t e = 0; e < 4; ++e) {
      targets_.clear();
      for (const EncodedTask& task : tasks) targets_.push_back(task.endings[e].front());
      token_log_probabilities(context_, logits, targets_, probabilities_);
      for (std::size_t t = 0; t < tasks.size(); ++t) scores_[t][e] += probabilities_[t];
    }
  }

  void run_endings(std::span<const EncodedTask> tasks, StepBuilder& step) {
    step.clear();
    targets_.clear();
    std::vector<double*> owners;
    std::int64_t context_page = 0;
    for (std::size_t t = 0; t < tasks.size(); ++t) {
      const auto length = static_cast<std::int64_t>(tasks[t].context.size());
      for (std::size_t e = 0; e < 4; ++e) {
        const std::vector<std::int32_t>& ending = tasks[t].endings[e];
        const auto fed = static_cast<std::int64_t>(ending.size()) - 1;  // the last token predicts nothing
        if (fed == 0) continue;
        const std::int64_t shared = length / page_size_ * page_size_;
        std::vector<std::int32_t> tokens(tasks[t].context.begin() + static_cast<std::ptrdiff_t>(shared),
                                         tasks[t].context.end());
        tokens.insert(tokens.end(), ending.begin(), ending.end() - 1);
        std::vector<std::int32_t> table = consecutive_pages(context_page, shared / page_size_);
        const std::vector<std::int32_t> own =
            consecutive_pages(next_page_, pages_for(static_cast<std::int64_t>(tokens.size())));
        table.insert(table.end(), own.begin(), own.end());
        next_page_ += static_cast<std::int64_t>(own.size());
        step.add(tokens, shared, table);
        step.want(length - shared, length - shared + fed);
        targets_.insert(targets_.end(), ending.begin() + 1, ending.end());
        owners.insert(owners.end(), static_cast<std::size_t>(fed), &scores_[t][e]);
      }
      context_page += pages_for(length);
    }
    if (targets_.empty()) return;
    probabilities_.resize(targets_.size());
    model_.forward_blocks(context_, step.batch(), *cache_, [&](std::int64_t row, const TensorView& logits) {
      const auto offset = static_cast<std::size_t>(row);
      const auto count = static_cast<std::size_t>(logits.dim(0));
      token_log_probabilities(context_, logits, std::span(targets_).subspan(offset, count),
                              std::span(probabilities_).subspan(offset, count));
    });
    for (std::size_t i = 0; i < owners.size(); ++i) *owners[i] += probabilities_[i];
  }

  std::int64_t pages_for(std::int64_t tokens) const { return ceil_div(tokens, page_size_); }

  const Model& model_;
  std::int64_t page_size_;
  std::optional<KvCache> cache_;
  Arena arena_;
  Context context_;
  std::int64_t next_page_ = 0;
  std::vector<float> logits_;
  std::vector<std::int32_t> targets_;
  std::vector<double> probabilities_;
  std::vector<std::array<double, 4>> scores_;
};

std::int64_t characters(std::string_view utf8) {
  return std::ranges::count_if(utf8, [](char c) { return (static_cast<unsigned char>(c) & 0xc0u) != 0x80u; });
}

int first_largest(const std::array<double, 4>& values) {
  return static_cast<int>(std::ranges::max_element(values) - values.begin());
}

// Standard error of a share of n tries, as of a sample.
double share_error(double share, double n) {
  return n > 1 ? std::sqrt(share * (1 - share) / (n - 1)) : 0.0;
}

}  // namespace

EvalSizes hellaswag_sizes(const ModelConfig& config, const Tokenizer& tokenizer,
                          std::span<const HellaSwagTask> tasks, DeviceKind device) {
  EvalSizes most;
  most.page_size = page_size_on(device);
  for (std::size_t begin = 0; begin < tasks.size();) {
    const std::vector<EncodedTask> group = next_group(tokenizer, tasks, begin, config.max_position);
    const EvalSizes sizes = sizes_of(group, most.page_size);
    for (std::int64_t EvalSizes::*const size :
         {&EvalSizes::step_tokens, &EvalSizes::sequences, &EvalSizes::longest, &EvalSizes::pages}) {
      most.*size = std::max(most.*size, sizes.*size);
    }
    const std::int64_t tasks_here = static_cast<std::int64_t>(group.size());
    most.logit_rows =
        std::max({most.logit_rows, tasks_here, std::min(logit_block_rows(config), sizes.logit_rows)});
    begin += group.size();
  }
  return most;
}

HellaSwagResult evaluate_hellaswag(const Model& model, const Tokenizer& tokenizer,
                                   std::span<const HellaSwagTask> tasks, const EvalProgress& progress) {
  if (tasks.empty()) fail_input("HellaSwag: no tasks");
  HellaSwagResult result;
  result.tasks = static_cast<std::int64_t>(tasks.size());
  TaskScorer scorer(model);
  std::int64_t right = 0, right_norm = 0;
  for (std::size_t begin = 0; begin < tasks.size();) {
    check_interrupt("nothing was kept; run the same command again");
    const std::vector<EncodedTask> group = next_group(tokenizer, tasks, begin, model.config().max_position);
    std::int64_t tokens = 0;
    for (const EncodedTask& task : group) tokens += task.tokens();
    const double start = now_seconds();
    const std::vector<std::array<double, 4>> scores = scorer.score(group);
    result.seconds += now_seconds() - start;
    result.tokens += tokens - 4 * static_cast<std::int64_t>(group.size());
    for (std::size_t t = 0; t < group.size(); ++t) {
      const HellaSwagTask& task = tasks[begin + t];
      std::array<double, 4> normed{};
      for (std::size_t e = 0; e < 4; ++e)
        normed[e] = scores[t][e] / static_cast<double>(characters(task.endings[e]));
      const HellaSwagChoice choice{task.label, first_largest(scores[t]), first_largest(normed), scores[t]};
      right += choice.chosen == task.label;
      right_norm += choice.chosen_norm == task.label;
      result.choices.push_back(choice);
    }
    begin += group.size();
    if (progress) progress(static_cast<std::int64_t>(begin), result.tasks);
  }
  const auto n = static_cast<double>(result.tasks);
  result.accuracy = static_cast<double>(right) / n;
  result.accuracy_norm = static_cast<double>(right_norm) / n;
  result.accuracy_error = share_error(result.accuracy, n);
  result.accuracy_norm_error = share_error(result.accuracy_norm, n);
  return result;
}

}  // namespace slidesparse
