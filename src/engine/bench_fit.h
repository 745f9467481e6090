#pragma once

#include <cstdint>
#include <string>

#include "engine/bench_model.h"
#include "model/memory_plan.h"

namespace slidesparse {

// How one M of a bench is run in the memory that there is.
struct BenchFit {
  std::int64_t m = 0;            // that is run: the one asked for, or the largest that fits
  std::int64_t step_tokens = 0;  // of one step: prefill of m tokens takes ceil(m / step_tokens)
  std::string note;              // what did not fit, in bytes; empty when everything is as asked for
};

// Tokens of a prefill prompt at m, and of the longest sequence of a bench.
std::int64_t bench_prompt(BenchPhase phase, std::int64_t m, const BenchModelOptions& options);
std::int64_t bench_length(BenchPhase phase, std::int64_t m, const BenchModelOptions& options);
// Of a step that is not timed: decode's prompts go in such chunks.
std::int64_t bench_prompt_step(std::int64_t m, const BenchModelOptions& options);

// Tokens of a page of sequences of `length` tokens: 64, or 16 where that would leave a twentieth of them
// empty.
std::int64_t bench_page(std::int64_t length);

// The demand of a bench at m with everything in one step; `model` says what the model takes.
MemoryDemand bench_demand(const MemoryDemand& model, const BenchModelOptions& options, std::int64_t m);

// Prefill: one step of m tokens when it fits, else the largest chunk of whole prompts. Decode: m sequences,
// or as many as fit. Throws kUnsupported, with the bytes, when not even one prompt or sequence does.
BenchFit fit_bench(const MemoryDemand& model, const MemoryBudget& budget, const BenchModelOptions& options,
                   std::int64_t m);

}  // namespace slidesparse
