#include "sweep/card_forecast.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <utility>

#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/text.h"
#include "engine/bench_fit.h"
#include "kernels/sm90/sm90_fragments.h"
#include "model/presets.h"
#include "model/weights.h"
#include "slidesparse/format/split.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;
constexpr std::int64_t kContext = 560 * kMiB;     // a CUDA context with our kernels, as on an H100
constexpr std::int64_t kScreen = 1024 * kMiB;     // of a desktop
constexpr std::int64_t kWorkspaces = 64 * kMiB;   // of a library
constexpr std::int64_t kSumsOfTile = 256 * kMiB;  // cusparselt: INT32 or FP32 sums before the tail
constexpr double kHopperShare = 0.625, kAdaShare = 0.75;

// Linears in the order of native's registers: blocks of 64 rows, whole stages of K.
std::int64_t native_bytes(const ModelConfig& config, DType dtype, Pattern pattern,
                          const std::string& layout) {
  const auto element = static_cast<int>(dtype_size(dtype));
  const int vectors = dtype == DType::kBF16 ? 4 : 8;  // bytes of a row's scale and bias in FP32
  std::int64_t bytes = 0;
  for (const FusedGroup& group : weight_table(config).groups) {
    std::int64_t rows = 0;
    for (const LinearSpec& member : group.members) rows += member.n;
    const std::int64_t k = group.members.front().k;
    sm90::Schedule schedule;
    if (pattern.is_dense()) {
      schedule = sm90::schedule_of(0, k, element);
    } else if (layout == "split") {
      const SplitShape shape = split_shape(pattern, k);
      schedule = sm90::schedule_of(shape.sparse, shape.dense, element);
    } else {
      schedule = sm90::schedule_of(pattern.lifted_k(k), 0, element);
    }
    const std::int64_t padded = (rows + sm90::kBlockRows - 1) / sm90::kBlockRows * sm90::kBlockRows;
    bytes += padded / sm90::kBlockRows * schedule.block_bytes() + vectors * padded;
  }
  return bytes;
}

// What one backend keeps, or why it cannot.
struct Kept {
  std::optional<std::int64_t> bytes;
  Pattern lifted;  // of its inputs
  std::int64_t scratch = 0;
  std::string why;
};

Kept kept_by(const KnownCard& card, const std::string& backend, const ModelConfig& config, DType dtype,
             Pattern pattern, const std::string& layout) {
  Kept kept;
  const bool hopper = card.compute_capability == 90;
  const bool dense = pattern.is_dense();
  if (dtype == DType::kF8E4M3 && card.compute_capability < 89) {
    kept.why = fmt::format("no FP8 before compute capability 8.9, {} has {}.{}", card.words,
                           card.compute_capability / 10, card.compute_capability % 10);
  } else if (layout == "split" && !dense && backend != "native") {
    kept.why = fmt::format("{} does not multiply split weights", backend);
  } else if (backend == "cublaslt") {
    kept.bytes = packed_linear_bytes(config, dtype, Pattern());
  } else if (backend == "cusparselt") {
    if (dense) {
      kept.why = "cusparselt multiplies weights with a pattern";
    } else {
      kept.bytes = compressed_linear_bytes(config, dtype, pattern, card.compressed_share);
      kept.lifted = pattern;
      kept.scratch = kSumsOfTile;
    }
  } else if ((backend == "cutlass" || backend == "native") && !hopper) {
    kept.why = fmt::format("{}'s kernels are for Hopper (compute capability 9.0), {} has {}.{}", backend,
                           card.words, card.compute_capability / 10, card.compute_capability % 10);
  } else if (backend == "cutlass") {
    kept.bytes = packed_linear_bytes(config, dtype, Pattern());
  } else if (backend == "native") {
    kept.bytes = native_bytes(config, dtype, pattern, layout);
    if (layout != "split") kept.lifted = pattern;
  } else {
    kept.why = fmt::format("{} does not run on a card", backend);
  }
  return kept;
}

// `auto` takes the fastest forms that fit; whether anything fits, the smallest decides.
Kept kept_by_any(const KnownCard& card, const ModelConfig& config, DType dtype, Pattern pattern,
                 const std::string& layout) {
  Kept best;
  for (const char* backend : {"cublaslt", "cutlass", "cusparselt", "native"}) {
    Kept one = kept_by(card, backend, config, dtype, pattern, layout);
    if (!one.bytes) {
      if (best.why.empty()) best.why = one.why;
    } else if (!best.bytes || *one.bytes < *best.bytes) {
      best = std::move(one);
    }
  }
  return best;
}

MemoryDemand demand_of(const ModelConfig& config, DType dtype, DType head, const Kept& kept, bool smallest) {
  MemoryDemand demand;
  demand.config = config;
  demand.linear_bytes = *kept.bytes;
  demand.head = head;
  demand.embedding_on_host =
      embedding_on_host(config, smallest ? WeightPolicy::kSmallest : WeightPolicy::kFastest, head);
  demand.workspaces = kWorkspaces;
  demand.scratch = [config, dtype, kept](std::int64_t tokens, std::int64_t wanted) {
    StepScratch scratch = input_scratch(config, tokens, wanted, dtype, kept.lifted);
    for (std::int64_t* part : {&scratch.qkv, &scratch.output, &scratch.gate_up, &scratch.down, &scratch.head})
      *part += kept.scratch;
    return scratch;
  };
  return demand;
}

CardForecast forecast(const KnownCard& card, const Cell& cell) {
  CardForecast result;
  result.cell = cell;
  if (cell.phase != Phase::kPrefill && cell.phase != Phase::kDecode) return result;
  const std::optional<ModelConfig> config = preset_config(cell.model);
  if (!config || !cell.m) {
    result.why = config ? "it has no M" : "only known shapes can be computed";
    return result;
  }
  const DType dtype = dtype_of(cell.dtype, "plan");
  const Pattern pattern = Pattern::parse(cell.pattern);
  const Kept kept = cell.backend == "auto"
                        ? kept_by_any(card, *config, dtype, pattern, cell.layout)
                        : kept_by(card, cell.backend, *config, dtype, pattern, cell.layout);
  if (!kept.bytes) {
    result.verdict = ForecastVerdict::kUnsupported;
    result.why = kept.why;
    return result;
  }
  result.weight_bytes = *kept.bytes;
  const DType head = cell.options.head.empty() ? DType::kBF16 : dtype_of(cell.options.head, "plan");
  if (head == DType::kF8E4M3 && card.compute_capability < 89) {
    result.verdict = ForecastVerdict::kUnsupported;
    result.why = fmt::format("no FP8 head before compute capability 8.9, {} has {}.{}", card.words,
                             card.compute_capability / 10, card.compute_capability % 10);
    return result;
  }
  BenchModelOptions bench;
  bench.phase = cell.phase == Phase::kPrefill ? BenchPhase::kPrefill : BenchPhase::kDecode;
  bench.prompt = cell.options.prompt.value_or(bench.prompt);
  bench.steps = cell.options.steps.value_or(bench.steps);
  if (cell.options.kv_cache_dtype == "fp8") bench.kv_dtype = DType::kF8E4M3;
  MemoryBudget budget;
  budget.total = cell.memory_limit.value_or(card.memory_bytes - card.held_bytes + kContext);
  budget.held = {{"context", kContext}};
  // The embedding goes to the host only when nothing else helps.
  for (const bool smallest : {false, true}) {
    const MemoryDemand demand = demand_of(*config, dtype, head, kept, smallest);
    const std::int64_t needed = bytes_of(plan_memory(bench_demand(demand, bench, *cell.m))) + kContext;
    if (!smallest || needed <= budget.total) result.needed_bytes = needed;
    try {
      const BenchFit fit = fit_bench(demand, budget, bench, *cell.m);
      result.why = fit.note;
      result.verdict = fit.note.empty() ? ForecastVerdict::kFits : ForecastVerdict::kSmaller;
      result.largest_m = fit.note.empty() ? *cell.m : fit.step_tokens;
      if (fit.note.empty()) return result;
    } catch (const Error& error) {
      result.verdict = ForecastVerdict::kDoesNotFit;
      result.why = error.what();
    }
  }
  return result;
}

std::string_view verdict_words(ForecastVerdict verdict) {
  switch (verdict) {
    case ForecastVerdict::kFits:
      return "fits";
    case ForecastVerdict::kSmaller:
      return "smaller";
    case ForecastVerdict::kDoesNotFit:
      return "does not fit";
    case ForecastVerdict::kUnsupported:
      return "no kernels";
    case ForecastVerdict::kNotAsked:
      break;
  }
  return "not computed";
}

}  // namespace

const std::vector<KnownCard>& known_cards() {
  // The drivers' totals. Held: what a server's card had without a screen, or a desktop's beside one.
  static const std::vector<KnownCard> cards{
      {"rtx4090", "NVIDIA GeForce RTX 4090", 24564 * kMiB, kScreen + kContext, 89, kAdaShare, false},
      {"rtx5090", "NVIDIA GeForce RTX 5090", 32607 * kMiB, kScreen + kContext, 120, kAdaShare, false},
      {"l40s", "NVIDIA L40S", 46068 * kMiB, 2 * kContext, 89, kAdaShare, false},
      {"a100-40gb", "NVIDIA A100 40GB", 40960 * kMiB, 2 * kContext, 80, kAdaShare, false},
      {"a100", "NVIDIA A100 80GB", 81920 * kMiB, 2 * kContext, 80, kAdaShare, false},
      {"h100", "NVIDIA H100 80GB", 81559 * kMiB, 2 * kContext, 90, kHopperShare, true},
      {"h200", "NVIDIA H200", 143771 * kMiB, 2 * kContext, 90, kHopperShare, true}};
  return cards;
}

const KnownCard& known_card(std::string_view name) {
  std::string names;
  for (const KnownCard& card : known_cards()) {
    if (card.name == name) return card;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", card.name);
  }
  fail(ErrorKind::kUsage, "--card {}: known are {}", printable(name, 40), names);
}

std::vector<CardForecast> forecast_card(const KnownCard& card, const std::vector<Cell>& cells) {
  std::vector<CardForecast> forecasts;
  forecasts.reserve(cells.size());
  for (const Cell& cell : cells) forecasts.push_back(forecast(card, cell));
  return forecasts;
}

std::string forecast_table(const KnownCard& card, const std::vector<CardForecast>& forecasts) {
  std::map<ForecastVerdict, std::int64_t> counts;
  for (const CardForecast& one : forecasts) ++counts[one.verdict];
  std::string text = fmt::format(
      "{}: {} of memory, {} held; cuSPARSELt's compressed rows take {} of a slid one ({}). Computed, nothing "
      "was run.\n",
      card.words, format_bytes(static_cast<double>(card.memory_bytes)),
      format_bytes(static_cast<double>(card.held_bytes)), card.compressed_share,
      card.measured ? "measured on this generation" : "assumed from the nearest generation");
  text += fmt::format("{} cells:", forecasts.size());
  for (const auto& [verdict, count] : counts) text += fmt::format(" {} {};", count, verdict_words(verdict));
  text.back() = '\n';
  for (const CardForecast& one : forecasts) {
    if (one.verdict == ForecastVerdict::kFits || one.verdict == ForecastVerdict::kNotAsked) continue;
    text += fmt::format("{}: {}", cell_words(one.cell), verdict_words(one.verdict));
    if (one.verdict == ForecastVerdict::kSmaller) {
      text += one.cell.phase == Phase::kDecode ? fmt::format(" (largest M {})", one.largest_m)
                                               : fmt::format(" (in steps of {} tokens)", one.largest_m);
    }
    text += fmt::format(": {}\n", one.why);
  }
  return text;
}

}  // namespace slidesparse
