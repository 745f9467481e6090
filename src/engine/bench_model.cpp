#include "engine/bench_model.h"

#include <algorithm>
#include <numeric>

#include "core/checked.h"
#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/interrupt.h"
#include "core/random.h"
#include "engine/bench_fit.h"
#include "engine/sequences.h"
#include "engine/step_runner.h"

namespace slidesparse {
namespace {

// One model at one m: its runner with its cache, its sequences, and what a run of it does. Every wanted row
// draws its token greedily, as a server would; what is drawn is not fed, because all models are to read the
// same tokens.
class Workload {
 public:
  Workload(const BenchSubject& subject, const BenchModelOptions& options, BenchFit fit)
      : subject_(subject),
        options_(options),
        fit_(std::move(fit)),
        m_(fit_.m),
        prefill_(options.phase == BenchPhase::kPrefill),
        prompt_(bench_prompt(options.phase, m_, options)),
        sequences_(prefill_ ? ceil_div(m_, prompt_) : m_),
        longest_(bench_length(options.phase, m_, options)),
        page_(bench_page(longest_)),
        blocks_(ceil_div(longest_, page_)),
        // Prompts that are done in their step leave their pages to the next one's.
        holding_(prefill_ ? ceil_div(fit_.step_tokens, prompt_) : sequences_),
        runner_(make_step_runner(*subject.model, limits())),
        step_(blocks_),
        rows_(static_cast<std::size_t>(sequences_)) {
    for (std::int64_t s = 0; s < holding_; ++s) tables_.push_back(consecutive_pages(s * blocks_, blocks_));
  }

  // One run on the reference's prompts.
  void check(const GreedyReference& reference) {
    const DType head = subject_.model->linears_at(fit_.step_tokens, holding_).back().dtype;
    greedy_ = GreedyCheck();
    greedy_.allowed =
        greedy_tolerance(subject_.model->summary(), subject_.model->config().layers, head, options_.kv_dtype);
    if (prefill_) {
      check_prompts(reference, fit_.step_tokens, prompt_);
      return;
    }
    const std::int64_t prompt = std::min(options_.prompt, GreedyReference::kPrompt);
    const std::int64_t steps =
        std::min({options_.steps, GreedyReference::kNew - 1, reference.positions() - prompt});
    check_prompts(reference, bench_prompt_step(m_, options_), prompt);
    run_steps(
        steps, prompt, [&](std::int64_t s, std::int64_t at) { return reference.token(s, at); },
        [&](std::int64_t step, std::span<const std::int32_t> drawn) {
          for (std::int64_t s = 0; s < sequences_; ++s)
            compare(reference, s, prompt + step, drawn[static_cast<std::size_t>(s)]);
        });
  }
  bool is_wrong() const { return greedy_.wrong > 0; }

  // Seconds of each step of a run of `steps` (decode); of prefill those of all m tokens.
  std::vector<double> run(std::int64_t steps) {
    const auto token = [&](std::int64_t s, std::int64_t at) { return random_token(s * longest_ + at); };
    const auto draws = [&](std::int64_t, std::int64_t, std::span<const std::int32_t> drawn) {
      check_drawn(drawn);
    };
    std::vector<double> seconds;
    if (prefill_) {
      seconds.push_back(run_prompts(fit_.step_tokens, prompt_, token, last_of, draws));
      return seconds;
    }
    run_prompts(bench_prompt_step(m_, options_), prompt_, token, last_of, draws);
    double last = now_seconds();
    run_steps(steps, options_.prompt, token, [&](std::int64_t, std::span<const std::int32_t> drawn) {
      check_drawn(drawn);
      const double now = now_seconds();
      seconds.push_back(now - last);
      last = now;
    });
    return seconds;
  }

  BenchModelRow row(std::vector<double> seconds) const {
    const ModelConfig& config = subject_.model->config();
    const ModelSummary summary = subject_.model->summary();
    BenchModelRow row;
    row.subject = subject_.name;
    row.phase = options_.phase;
    row.dtype = summary.dtype;
    row.pattern = summary.pattern;
    row.attention = summary.attention;
    row.m = m_;
    row.sequences = sequences_;
    row.step_tokens = fit_.step_tokens;
    row.note = fit_.note;
    row.greedy = greedy_;
    row.check = greedy_.compared == 0 ? "not compared" : greedy_.words();
    count_linears(row);
    if (is_wrong()) return row;
    row.seconds = summarise(std::move(seconds));
    if (!prefill_) {
      const std::int64_t context = options_.prompt + options_.steps / 2;
      row.kv_bytes = m_ * context * KvCache::bytes_per_page(config, 1, options_.kv_dtype);
    }
    const auto bytes = static_cast<double>(row.weight_bytes + row.kv_bytes);
    row.bytes_per_token = bytes / static_cast<double>(m_);
    if (row.seconds.median > 0) {
      row.tokens_per_second = static_cast<double>(m_) / row.seconds.median;
      row.gigabytes_per_second = bytes / row.seconds.median * 1e-9;
      row.gigaflops_per_second = row.linear_flops / row.seconds.median * 1e-9;
    }
    return row;
  }

 private:
  std::int64_t vocab() const { return subject_.model->config().vocab; }

  std::int32_t random_token(std::int64_t counter) const {
    return static_cast<std::int32_t>(random_bits(options_.seed, static_cast<std::uint64_t>(counter)) %
                                     static_cast<std::uint64_t>(vocab()));
  }

  using TokenOf = std::function<std::int32_t(std::int64_t sequence, std::int64_t position)>;
  static std::int64_t last_of(std::int64_t, std::int64_t length) { return length - 1; }

  // Runs all prompts, of `length` tokens (the last one may be shorter), in steps of as many whole ones as
  // have `step_tokens` tokens at full length: seconds. `wanted` names the token of a prompt behind which one
  // is drawn; `draws` gets what was, by the first prompt of the step and their number.
  double run_prompts(std::int64_t step_tokens, std::int64_t length, const TokenOf& token,
                     const std::function<std::int64_t(std::int64_t sequence, std::int64_t length)>& wanted,
                     const std::function<void(std::int64_t first, std::int64_t count,
                                              std::span<const std::int32_t> drawn)>& draws) {
    const std::int64_t tokens = prefill_ ? m_ : sequences_ * length;
    const std::int64_t prompts = step_tokens / prompt_;
    std::vector<std::int32_t> prompt;
    double seconds = 0;
    for (std::int64_t begin = 0; begin < sequences_; begin += prompts) {
      step_.clear();
      const std::int64_t end = std::min(begin + prompts, sequences_);
      for (std::int64_t s = begin; s < end; ++s) {
        prompt.resize(static_cast<std::size_t>(std::min(length, tokens - s * length)));
        for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = token(s, static_cast<std::int64_t>(i));
        step_.add(prompt, 0, tables_[static_cast<std::size_t>(prefill_ ? s - begin : s)]);
        const std::int64_t at = wanted(s, static_cast<std::int64_t>(prompt.size()));
        step_.want(at, at + 1);
      }
      rows_.resize(static_cast<std::size_t>(step_.wanted()));
      const double start = now_seconds();
      runner_->start(step_.batch(), rows_);
      const std::span<const std::int32_t> drawn = runner_->finish().tokens;
      seconds += now_seconds() - start;
      draws(begin, end - begin, drawn);
    }
    rows_.resize(static_cast<std::size_t>(sequences_));
    return seconds;
  }

  // Decodes one token of every sequence `steps` times, from position `begin` on. On a card as the engine
  // does: the next step is on its way before the last one's tokens are waited for, so that a step's time is
  // that from one arrival to the next. On the CPU a step is done when it has been started.
  void run_steps(std::int64_t steps, std::int64_t begin, const TokenOf& token,
                 const std::function<void(std::int64_t step, std::span<const std::int32_t> drawn)>& draws) {
    const bool ahead = subject_.model->device().kind == DeviceKind::kCuda;
    for (std::int64_t i = 0; i < steps; ++i) {
      step_.clear();
      for (std::int64_t s = 0; s < sequences_; ++s) {
        const std::int32_t fed = token(s, begin + i);
        step_.add({&fed, 1}, begin + i, tables_[static_cast<std::size_t>(s)]);
        step_.want_last();
      }
      // Every step really decodes one token of each of m sequences.
      require(step_.sequences() == m_ && step_.tokens() == m_ && step_.wanted() == m_,
              "decode step of {} sequences, {} tokens, {} logits instead of {}", step_.sequences(),
              step_.tokens(), step_.wanted(), m_);
      runner_->start(step_.batch(), rows_);
      if (!ahead) draws(i, runner_->finish().tokens);
      if (ahead && i > 0) draws(i - 1, runner_->finish().tokens);
    }
    if (ahead && steps > 0) draws(steps - 1, runner_->finish().tokens);
  }

  // Prompts that begin as the reference's do. One token behind each is compared: of the first four the last
  // one that is known of a prompt, of the next four the one before it, and so on; what was said counts as
  // prompt here.
  void check_prompts(const GreedyReference& reference, std::int64_t step_tokens, std::int64_t length) {
    const auto at = [&](std::int64_t s, std::int64_t tokens) {
      const std::int64_t known = std::min(tokens, reference.positions());
      const std::int64_t first = std::min(known, GreedyReference::kPrompt) - 1;
      return known - 1 - s / GreedyReference::kSequences % (known - first);
    };
    const std::int64_t tokens = prefill_ ? m_ : sequences_ * length;
    run_prompts(
        step_tokens, length,
        [&](std::int64_t s, std::int64_t i) {
          return i < reference.positions() ? reference.token(s, i) : random_token(s * longest_ + i);
        },
        at,
        [&](std::int64_t first, std::int64_t count, std::span<const std::int32_t> drawn) {
          for (std::int64_t i = 0; i < count; ++i) {
            const std::int64_t s = first + i;
            compare(reference, s, at(s, std::min(length, tokens - s * length)),
                    drawn[static_cast<std::size_t>(i)]);
          }
        });
  }

  void compare(const GreedyReference& reference, std::int64_t sequence, std::int64_t position,
               std::int32_t drawn) {
    if (options_.spoil_check) drawn = static_cast<std::int32_t>((drawn + vocab() / 2) % vocab());
    greedy_.compare(reference, sequence, position, drawn);
  }

  RunnerLimits limits() const {
    RunnerLimits limits;
    limits.max_tokens = prefill_ ? fit_.step_tokens : std::max(m_, bench_prompt_step(m_, options_));
    limits.max_sequences = holding_;
    limits.max_context = longest_;
    limits.pages = holding_ * blocks_;
    limits.page_size = page_;
    limits.kv = {options_.kv_dtype, prefill_};
    return limits;
  }

  void check_drawn(std::span<const std::int32_t> drawn) const {
    for (const std::int32_t token : drawn) {
      if (token >= 0) continue;
      ErrorFacts facts;
      facts.wrong_result = true;
      fail_with(std::move(facts), ErrorKind::kInternal, "{} M={}: logits that are no numbers", subject_.name,
                m_);
    }
  }

  void count_linears(BenchModelRow& row) const {
    double sparse_flops = 0;
    // The head runs for wanted rows only.
    const double steps = static_cast<double>(m_) / static_cast<double>(fit_.step_tokens);
    for (const LinearUse& use : subject_.model->linears_at(fit_.step_tokens, holding_)) {
      const double flops =
          2.0 * steps * static_cast<double>(use.m) * static_cast<double>(use.n) * static_cast<double>(use.k);
      row.linears.push_back({use.name, use.n, use.k, use.choice.kernel.name, use.choice.kernel.sparse});
      row.weight_bytes += static_cast<std::int64_t>(steps * static_cast<double>(use.weight_bytes_read));
      row.linear_flops += flops;
      if (use.choice.kernel.sparse) sparse_flops += flops;
      row.head = dtype_word(use.dtype);  // it is the last one
    }
    row.sparse_share = row.linear_flops > 0 ? sparse_flops / row.linear_flops : 0;
  }

  const BenchSubject& subject_;
  const BenchModelOptions& options_;
  BenchFit fit_;
  std::int64_t m_;
  bool prefill_;
  std::int64_t prompt_;
  std::int64_t sequences_;
  std::int64_t longest_;
  std::int64_t page_;
  std::int64_t blocks_;
  std::int64_t holding_;  // sequences that hold pages at once
  std::unique_ptr<StepRunner> runner_;
  StepBuilder step_;
  GreedyCheck greedy_;
  std::vector<DrawRow> rows_;
  std::vector<std::vector<std::int32_t>> tables_;
};

void check_options(std::span<const BenchSubject> subjects, const BenchModelOptions& options) {
  if (options.runs < 1 || options.warmup < 0) {
    fail(ErrorKind::kUsage, "bench: {} runs after {} warm-ups", options.runs, options.warmup);
  }
  const bool decode = options.phase == BenchPhase::kDecode;
  if (decode && (options.prompt < 1 || options.steps < 1)) {
    fail(ErrorKind::kUsage, "bench decode: prompt {}, steps {}: at least 1 each", options.prompt,
         options.steps);
  }
  for (const std::int64_t m : options.m) {
    if (m < 1 || m > (1 << 24)) fail(ErrorKind::kUsage, "bench: m = {}: 1 to {} are possible", m, 1 << 24);
    for (const BenchSubject& subject : subjects) {
      require(subject.model != nullptr, "bench: subject {} has no model", subject.name);
      const std::int64_t length = bench_length(options.phase, m, options);
      if (length > subject.model->config().max_position) {
        fail(ErrorKind::kUsage, "bench: sequences of {} tokens, but {} has {} positions", length,
             subject.name, subject.model->config().max_position);
      }
    }
  }
}

}  // namespace

std::vector<BenchModelRow> bench_model(std::span<const BenchSubject> subjects,
                                       const BenchModelOptions& options,
                                       const std::function<void(const BenchModelRow&)>& on_row) {
  check_options(subjects, options);
  std::vector<BenchModelRow> rows;
  for (const std::int64_t m : options.m) {
    std::vector<std::unique_ptr<Workload>> workloads;
    for (const BenchSubject& subject : subjects)
      workloads.push_back(
          std::make_unique<Workload>(subject, options, subject.fit ? subject.fit(m) : BenchFit{m, m, {}}));
    for (std::size_t i = 0; i < workloads.size(); ++i) {
      check_interrupt("rows printed so far are complete");
      if (subjects[i].reference) workloads[i]->check(*subjects[i].reference);
    }
    std::vector<std::vector<double>> seconds(subjects.size());
    const auto timed_enough = [&] {
      if (options.phase == BenchPhase::kDecode) return true;
      for (std::size_t i = 0; i < workloads.size(); ++i) {
        const double all = std::accumulate(seconds[i].begin(), seconds[i].end(), 0.0);
        if (!workloads[i]->is_wrong() && all < options.min_seconds) return false;
      }
      return true;
    };
    for (int run = -options.warmup; run < options.runs || !timed_enough(); ++run) {
      for (std::size_t i = 0; i < workloads.size(); ++i) {
        if (workloads[i]->is_wrong()) continue;
        // The check ran the very step that is timed.
        const bool warm = options.phase == BenchPhase::kPrefill && subjects[i].reference;
        if (warm && run < 0 && run == -options.warmup) continue;
        check_interrupt("rows printed so far are complete");
        const std::vector<double> steps =
            workloads[i]->run(run < 0 ? std::min(options.steps, kWarmUpSteps) : options.steps);
        if (run >= 0) seconds[i].insert(seconds[i].end(), steps.begin(), steps.end());
      }
    }
    for (std::size_t i = 0; i < workloads.size(); ++i) {
      rows.push_back(workloads[i]->row(std::move(seconds[i])));
      if (on_row) on_row(rows.back());
    }
  }
  return rows;
}

double share_of_limit(const BenchModelRow& row, const MachineLimits& limits) {
  const DType dtype = row.dtype == kInt8Word  ? DType::kI8
                      : row.dtype == kFp8Word ? DType::kF8E4M3
                                              : DType::kBF16;
  const double peak = limits.ops_per_second(dtype);
  const double bytes =
      limits.read_bytes_per_second > 0 ? 1e9 * row.gigabytes_per_second / limits.read_bytes_per_second : 0;
  const double ops = peak > 0 ? 1e9 * row.gigaflops_per_second / peak : 0;
  return std::max(bytes, ops);
}

}  // namespace slidesparse
