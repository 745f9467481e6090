#include "model/memory_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "core/checked.h"
#include "core/fail.h"
#include "core/text.h"
#include "model/weights.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kPart = 256;  // what arenas round up to on a card
// Positions and rows are 32 bit numbers to the kernels.
constexpr std::int64_t kMostTokens = std::numeric_limits<std::int32_t>::max();

std::int64_t part(std::int64_t bytes) {
  return round_up(bytes, kPart);
}

std::int64_t size_of(DType dtype) {
  return static_cast<std::int64_t>(dtype_size(dtype));
}

// `row` gives the bytes of one row of k weights.
template <typename Row>
std::int64_t sum_linears(const ModelConfig& config, DType dtype, const Row& row) {
  const std::int64_t scale = dtype == DType::kBF16 ? 0 : 2;
  std::int64_t bytes = 0;
  for (const FusedGroup& group : weight_table(config).groups) {
    for (const LinearSpec& linear : group.members) bytes += linear.n * (row(linear.k) + scale);
  }
  return bytes;
}

std::int64_t page_bytes(const MemoryDemand& demand) {
  const ModelConfig& config = demand.config;
  return 2 * config.layers * config.kv_heads * config.head_dim * size_of(demand.kv_dtype) * demand.page_size;
}

// Tokens of the largest step. When all sequences run at once, it has one of each.
std::int64_t largest_step(const MemoryDemand& demand) {
  return demand.kv_kept == KvKept::kAll ? std::max(demand.step_tokens, demand.sequences) : demand.step_tokens;
}

// Sequences that hold pages at once: all, or as many as a step of consecutive prompts may touch.
std::int64_t holding(const MemoryDemand& demand) {
  if (demand.kv_kept == KvKept::kAll) return demand.sequences;
  return std::min(demand.sequences, (demand.step_tokens - 1) / demand.length + 2);
}

std::int64_t kv_bytes(const MemoryDemand& demand) {
  const std::int64_t pages = holding(demand) * ceil_div(demand.length, demand.page_size);
  const std::optional<std::int64_t> bytes = checked_mul(pages, page_bytes(demand));
  if (!bytes) fail(ErrorKind::kUsage, "{} pages of {} tokens are too many", pages, demand.page_size);
  return demand.kv_kept == KvKept::kCurrentLayer ? *bytes / demand.config.layers : *bytes;
}

// What depends on sequences, lengths and steps; it grows with each of them, but for length where pages are
// given back.
struct Changing {
  std::int64_t kv = 0, activations = 0, logits = 0, extra = 0;
  std::int64_t sum() const { return kv + activations + logits + extra; }
};
Changing changing_bytes(const MemoryDemand& demand) {
  const std::int64_t largest = largest_step(demand);
  const std::int64_t running = std::min(largest, demand.sequences);
  const std::int64_t rows = demand.padded ? demand.padded(running) : running;
  const std::int64_t tokens = std::max(largest, rows);
  // Scratch knows one number for sequences and rows.
  const std::int64_t wanted = std::max(rows, demand.logit_rows);
  const std::int64_t logits = demand.logit_rows > 0 ? demand.logit_rows : rows;
  const StepScratch scratch = demand.scratch ? demand.scratch(tokens, wanted) : StepScratch{};
  const std::int64_t blocks = ceil_div(demand.length, demand.page_size);
  return {kv_bytes(demand), step_bytes(demand.config, tokens, wanted, scratch),
          4 * logits * demand.config.vocab, demand.extra ? demand.extra(tokens, rows, blocks) : 0};
}

void check_sizes(const MemoryDemand& demand) {
  for (const auto& [name, value] :
       {std::pair("sequences", demand.sequences), std::pair("tokens", demand.length),
        std::pair("tokens a step", demand.step_tokens), std::pair("tokens a page", demand.page_size)}) {
    if (value < 1 || value > kMostTokens)
      fail(ErrorKind::kUsage, "memory of {} {}: 1 to {} are possible", value, name, kMostTokens);
  }
}

// The largest n in [1, most] with fits(n), which with an n holds for all smaller ones; 0 when there is none.
template <typename Fits>
std::int64_t largest(std::int64_t most, const Fits& fits) {
  std::int64_t good = 0, bad = most + 1;
  while (bad - good > 1) {
    const std::int64_t middle = good + (bad - good) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  return good;
}

std::string bytes_text(std::int64_t bytes) {
  constexpr double kGiB = 1 << 30;
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / kGiB);
}

std::string list_of(const std::vector<MemoryUse>& uses) {
  std::string text;
  for (const MemoryUse& use : uses) {
    if (use.bytes > 0)
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", use.name, bytes_text(use.bytes));
  }
  return text;
}

}  // namespace

bool embedding_on_host(const ModelConfig& config, WeightPolicy policy, DType head) {
  return policy == WeightPolicy::kSmallest && (!config.tied_embeddings || head != DType::kBF16);
}

std::int64_t step_bytes(const ModelConfig& config, std::int64_t tokens, std::int64_t wanted,
                        const StepScratch& scratch) {
  const std::int64_t q_width = config.heads * config.head_dim;
  const std::int64_t kv_width = config.kv_heads * config.head_dim;
  const std::int64_t attend = part(2 * tokens * (q_width + 2 * kv_width)) + part(2 * tokens * q_width) +
                              std::max({scratch.qkv, scratch.output, part(scratch.attention)});
  const std::int64_t mlp = part(4 * tokens * config.intermediate) + std::max(scratch.gate_up, scratch.down);
  const std::int64_t head = 2 * part(2 * wanted * config.hidden) + (wanted == 0 ? 0 : scratch.head);
  // The residual and what is added to it live through the whole step.
  return 2 * part(2 * tokens * config.hidden) + scratch.prompts + std::max({attend, mlp, head}) + 8 * kPart;
}

StepScratch input_scratch(const ModelConfig& config, std::int64_t tokens, std::int64_t wanted, DType dtype,
                          Pattern lifted) {
  const auto input = [&](std::int64_t rows, std::int64_t k, DType type, Pattern pattern) {
    const std::int64_t lanes = pattern.lifted_k(k);
    if (type == DType::kBF16 && pattern.is_dense()) return part(2 * rows * k);
    return part(rows * lanes * size_of(type)) + part(4 * rows);
  };
  StepScratch scratch;
  scratch.qkv = scratch.gate_up = input(tokens, config.hidden, dtype, lifted);
  scratch.output = input(tokens, config.heads * config.head_dim, dtype, lifted);
  scratch.down = input(tokens, config.intermediate, dtype, lifted);
  scratch.head = input(wanted, config.hidden, DType::kBF16, {});
  return scratch;
}

std::int64_t packed_linear_bytes(const ModelConfig& config, DType dtype, Pattern pattern) {
  return sum_linears(config, dtype, [&](std::int64_t k) {
    return pattern.values_per_row(k) * size_of(dtype) + pattern.code_bytes_per_row(k);
  });
}

std::int64_t compressed_linear_bytes(const ModelConfig& config, DType dtype, Pattern pattern, double share) {
  return sum_linears(config, dtype, [&](std::int64_t k) {
    return static_cast<std::int64_t>(
        std::ceil(share * static_cast<double>(pattern.lifted_k(k) * size_of(dtype))));
  });
}

std::int64_t bytes_of(const std::vector<MemoryUse>& uses) {
  std::int64_t bytes = 0;
  for (const MemoryUse& use : uses) bytes += use.bytes;
  return bytes;
}

std::vector<MemoryUse> plan_memory(const MemoryDemand& demand) {
  check_sizes(demand);
  const ModelConfig& config = demand.config;
  std::int64_t plain = 0;  // embedding, norms, biases
  for (const PlainSpec& spec : weight_table(config).plain) plain += 2 * spec.shape.count();
  if (demand.embedding_on_host) plain -= 2 * config.vocab * config.hidden;
  // A quantised head is there beside the embedding, whether they are tied or not.
  const std::int64_t head =
      demand.head == DType::kBF16 ? (config.tied_embeddings ? 0 : 2 * config.vocab * config.hidden)
      : demand.head_bytes > 0     ? demand.head_bytes
                                  : config.vocab * (config.hidden * size_of(demand.head) + 2);
  const Changing changing = changing_bytes(demand);
  return {{"linears", demand.linear_bytes},
          {"embedding, norms and biases", plain},
          {"head", head},
          {"rotary table", 4 * config.max_position * config.head_dim},
          {"KV cache", changing.kv},
          {"activations and scratch", changing.activations},
          {"logits", changing.logits},
          {"indices and drawing", changing.extra},
          {"libraries", demand.workspaces},
          {"graphs", demand.graphs}};
}

MemoryLimits memory_limits(const MemoryDemand& demand, const MemoryBudget& budget) {
  const std::int64_t fixed = bytes_of(plan_memory(demand)) - changing_bytes(demand).sum();
  const std::int64_t free = budget.free() - fixed;
  // The demand with another of one of its numbers.
  const auto fits = [&](std::int64_t MemoryDemand::*number, std::int64_t value) {
    MemoryDemand tried = demand;
    tried.*number = value;
    return changing_bytes(tried).sum() <= free;
  };
  MemoryLimits limits;
  limits.sequences = largest(kMostTokens / round_up(demand.length, demand.page_size),
                             [&](std::int64_t n) { return fits(&MemoryDemand::sequences, n); });
  limits.step_tokens =
      largest(demand.step_tokens, [&](std::int64_t n) { return fits(&MemoryDemand::step_tokens, n); });
  const std::int64_t longest = std::min(demand.config.max_position, kMostTokens / demand.sequences);
  if (demand.kv_kept == KvKept::kAll) {
    limits.length = largest(longest, [&](std::int64_t n) { return fits(&MemoryDemand::length, n); });
    return limits;
  }
  // Longer prompts are fewer in a step: bytes go up and down. Whole pages are the best of each.
  for (std::int64_t n = longest; n > 0; n = (n - 1) / demand.page_size * demand.page_size) {
    if (!fits(&MemoryDemand::length, n)) continue;
    limits.length = n;
    break;
  }
  return limits;
}

std::string memory_table(const MemoryDemand& demand, const MemoryBudget& budget) {
  TextTable table({"holder", "bytes", ""},
                  {TextTable::Align::kLeft, TextTable::Align::kRight, TextTable::Align::kRight});
  const auto add = [&](const std::string& name, std::int64_t bytes) {
    table.add_row({name, fmt::format("{}", bytes), bytes_text(bytes)});
  };
  const std::vector<MemoryUse> uses = plan_memory(demand);
  for (const MemoryUse& use : uses) add(use.name, use.bytes);
  add("needed", bytes_of(uses));
  for (const MemoryUse& use : budget.held) add("held: " + use.name, use.bytes);
  add("free", budget.free());
  return table.to_string();
}

std::string memory_shortfall(const MemoryDemand& demand, const MemoryBudget& budget) {
  const std::vector<MemoryUse> uses = plan_memory(demand);
  const std::int64_t needed = bytes_of(uses);
  if (needed <= budget.free()) return {};
  const MemoryLimits limits = memory_limits(demand, budget);
  std::string instead;
  const auto offer = [&](std::int64_t most, std::int64_t asked, const std::string& text) {
    if (most > 0 && most < asked) instead += fmt::format("{}{}", instead.empty() ? "" : ", or ", text);
  };
  offer(limits.step_tokens, demand.step_tokens, fmt::format("steps of {} tokens", limits.step_tokens));
  offer(limits.sequences, demand.sequences,
        fmt::format("{} sequences of {} tokens", limits.sequences, demand.length));
  offer(limits.length, demand.length,
        fmt::format("{} sequences of {} tokens", demand.sequences, limits.length));
  return fmt::format(
      "{} needed ({}), {} of {} free{}: {}", bytes_text(needed), list_of(uses), bytes_text(budget.free()),
      bytes_text(budget.total), budget.held.empty() ? "" : fmt::format(" ({})", list_of(budget.held)),
      instead.empty() ? std::string("no smaller step, number or length of sequences alone fits")
                      : "what would fit: " + instead);
}

ErrorFacts memory_facts(const MemoryDemand& demand, const MemoryBudget& budget) {
  ErrorFacts facts;
  facts.planned = true;
  const std::vector<MemoryUse> uses = plan_memory(demand);
  facts.needed_bytes = bytes_of(uses);
  facts.free_bytes = budget.free();
  for (const MemoryUse& use : uses) {
    if (use.bytes > 0) facts.holders.emplace_back(use.name, use.bytes);
  }
  for (const MemoryUse& use : budget.held) facts.holders.emplace_back("held: " + use.name, use.bytes);
  return facts;
}

void check_memory(const MemoryDemand& demand, const MemoryBudget& budget) {
  const std::string shortfall = memory_shortfall(demand, budget);
  if (!shortfall.empty()) fail_with(memory_facts(demand, budget), ErrorKind::kUnsupported, "{}", shortfall);
}

}  // namespace slidesparse
