#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "gemm/weight_forms.h"
#include "model/config.h"
#include "slidesparse/core/error.h"
#include "slidesparse/format/pattern.h"

// What a model on a card will take, added up before anything is allocated. Arithmetic on sizes alone.
namespace slidesparse {

// What libraries, graphs and kernels that are loaded late take of a card besides our own buffers.
inline constexpr std::int64_t kOthersBytes = std::int64_t{512} << 20;

// Scratch of the parts of a step at some number of tokens, bytes: quantised inputs and what kernels take.
struct StepScratch {
  std::int64_t qkv = 0, output = 0, gate_up = 0, down = 0, head = 0;
  std::int64_t attention = 0;
  std::int64_t prompts = 0;  // where prompts of unequal lengths begin: lives through the whole step
};
// Activations and scratch of a step in which `wanted` of `tokens` rows go through the head: what the decoder
// on a card takes from its arena.
std::int64_t step_bytes(const ModelConfig& config, std::int64_t tokens, std::int64_t wanted,
                        const StepScratch& scratch);
// Scratch that comes of the inputs alone, in codes of `dtype` with a scale a token (BF16: none), lifted for
// 2:4 hardware where `lifted` is a pattern.
StepScratch input_scratch(const ModelConfig& config, std::int64_t tokens, std::int64_t wanted, DType dtype,
                          Pattern lifted = {});

// All linears but the head, with a BF16 scale a row (BF16: none).
std::int64_t packed_linear_bytes(const ModelConfig& config, DType dtype, Pattern pattern);  // dense: as it is
// Slid to 2:4 and compressed by a library that keeps `share` bytes a byte of slid row (0.625 with 8-bit
// values on Hopper, 0.75 on Ada).
std::int64_t compressed_linear_bytes(const ModelConfig& config, DType dtype, Pattern pattern, double share);

// Whether the embedding stays in the host's memory, where a card can look rows up too: a step reads one row a
// token, 2 * hidden bytes. Where bytes count more than that, and the head (of type `head`) is not its rows.
bool embedding_on_host(const ModelConfig& config, WeightPolicy policy, DType head);

// Keys and values of which sequences are there at once.
enum class KvKept {
  kAll,            // of all, to their ends
  kUntilFinished,  // prompts that want one token give their pages back with the step that draws it
  kCurrentLayer,   // the same, and every prompt is one step: one layer's at a time
};

// What is to run.
struct MemoryDemand {
  ModelConfig config;
  std::int64_t linear_bytes = 0;  // of all linears but the head, in every form that is kept
  DType head = DType::kBF16;      // or an 8-bit one
  std::int64_t head_bytes = 0;    // of an 8-bit head, in every form that is kept; 0: as it is stored
  bool embedding_on_host = false;
  DType kv_dtype = DType::kBF16;  // or kF8E4M3
  std::int64_t page_size = 64;    // tokens
  KvKept kv_kept = KvKept::kAll;
  std::int64_t sequences = 1;
  std::int64_t length = 1;       // tokens of a sequence that are in the cache at its end
  std::int64_t step_tokens = 1;  // of the largest step; with kAll at least one for each sequence
  std::int64_t logit_rows = 0;   // that go through the head and are held at a time; 0: one a sequence
  // Of a step of so many tokens and wanted rows; more of either take no less.
  std::function<StepScratch(std::int64_t tokens, std::int64_t wanted)> scratch;
  // Rows that a step of so many sequences is made ready for; empty: as many.
  std::function<std::int64_t(std::int64_t sequences)> padded;
  // Bytes of a step beside all that: indices, drawing. `blocks`: pages of a sequence.
  std::function<std::int64_t(std::int64_t tokens, std::int64_t rows, std::int64_t blocks)> extra;
  std::int64_t workspaces = 0;  // bytes that libraries keep
  std::int64_t graphs = 0;      // bytes of recorded graphs
};

struct MemoryUse {
  std::string name;
  std::int64_t bytes = 0;
};
std::int64_t bytes_of(const std::vector<MemoryUse>& uses);

// What `demand` takes, by holder. Throws kUsage for sizes below 1 and from 2^31 on.
std::vector<MemoryUse> plan_memory(const MemoryDemand& demand);

// A card, or what of it may be used, and who holds some of it already (the context, other programs).
struct MemoryBudget {
  std::int64_t total = 0;
  std::vector<MemoryUse> held;
  std::int64_t free() const { return total - bytes_of(held); }
};

// Each the largest with everything else as it is in the demand; 0: not even 1 fits.
struct MemoryLimits {
  std::int64_t sequences = 0;
  std::int64_t length = 0;       // no more than the model's positions
  std::int64_t step_tokens = 0;  // no more than asked for
};
MemoryLimits memory_limits(const MemoryDemand& demand, const MemoryBudget& budget);

// A table of who takes how much, for people.
std::string memory_table(const MemoryDemand& demand, const MemoryBudget& budget);
// Empty when it fits; else bytes needed and free, who takes and who holds them, and what would fit.
std::string memory_shortfall(const MemoryDemand& demand, const MemoryBudget& budget);
// What a planned refusal knows besides its line: bytes needed and free, and who would hold and holds them.
ErrorFacts memory_facts(const MemoryDemand& demand, const MemoryBudget& budget);
// Throws kUnsupported with memory_shortfall() and memory_facts().
void check_memory(const MemoryDemand& demand, const MemoryBudget& budget);

}  // namespace slidesparse
