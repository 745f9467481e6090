#include "engine/bench_fit.h"

#include <algorithm>

#include "core/checked.h"
#include "core/fail.h"

namespace slidesparse {
namespace {

// Prompts of the prefill phase, as in the published benchmark.
constexpr std::int64_t kLongestPrompt = 1024;
constexpr std::int64_t kPromptStep = 2048;

}  // namespace

std::int64_t bench_prompt(BenchPhase phase, std::int64_t m, const BenchModelOptions& options) {
  return phase == BenchPhase::kPrefill ? std::min(m, kLongestPrompt) : options.prompt;
}

std::int64_t bench_length(BenchPhase phase, std::int64_t m, const BenchModelOptions& options) {
  return bench_prompt(phase, m, options) + (phase == BenchPhase::kPrefill ? 0 : options.steps);
}

std::int64_t bench_prompt_step(std::int64_t m, const BenchModelOptions& options) {
  const std::int64_t prompts = std::max<std::int64_t>(1, kPromptStep / options.prompt);
  return std::min(m, prompts) * options.prompt;
}

std::int64_t bench_page(std::int64_t length) {
  return 20 * (round_up(length, 64) - length) > length ? 16 : 64;
}

MemoryDemand bench_demand(const MemoryDemand& model, const BenchModelOptions& options, std::int64_t m) {
  MemoryDemand demand = model;
  const bool prefill = options.phase == BenchPhase::kPrefill;
  demand.kv_dtype = options.kv_dtype;
  demand.kv_kept = prefill ? KvKept::kCurrentLayer : KvKept::kAll;
  demand.length = bench_length(options.phase, m, options);
  demand.page_size = bench_page(demand.length);
  demand.sequences = prefill ? ceil_div(m, demand.length) : m;
  demand.step_tokens = prefill ? m : std::max(m, bench_prompt_step(m, options));
  return demand;
}

BenchFit fit_bench(const MemoryDemand& model, const MemoryBudget& budget, const BenchModelOptions& options,
                   std::int64_t m) {
  const MemoryDemand demand = bench_demand(model, options, m);
  BenchFit fit{m, m, memory_shortfall(demand, budget)};
  if (fit.note.empty()) return fit;
  fit.note = fmt::format("for M={} {}", m, fit.note);
  const MemoryLimits limits = memory_limits(demand, budget);
  if (options.phase == BenchPhase::kPrefill) {
    fit.step_tokens = limits.step_tokens / demand.length * demand.length;
    if (fit.step_tokens == 0)
      fail_with(memory_facts(demand, budget), ErrorKind::kUnsupported, "{}", fit.note);
    return fit;
  }
  // Fewer sequences also have shorter prompt steps: ask again from the top.
  std::int64_t most = limits.sequences;
  for (std::int64_t tried = m - 1; most == 0 && tried > 0; tried /= 2)
    most = memory_limits(bench_demand(model, options, tried), budget).sequences;
  fit.m = fit.step_tokens = std::min(most, m);
  if (fit.m == 0) fail_with(memory_facts(demand, budget), ErrorKind::kUnsupported, "{}", fit.note);
  return fit;
}

}  // namespace slidesparse
