#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/samples.h"
#include "engine/greedy_check.h"
#include "gemm/machine_limits.h"
#include "model/model.h"

namespace slidesparse {

enum class BenchPhase { kPrefill, kDecode };

// Of a run of decode that is not timed, at most: enough for graphs to be recorded and clocks to rise.
inline constexpr std::int64_t kWarmUpSteps = 32;

struct BenchModelOptions {
  BenchPhase phase = BenchPhase::kPrefill;
  std::vector<std::int64_t> m;  // prefill: tokens of the step; decode: running sequences
  int warmup = 1;               // prefill: steps; decode: runs of `steps`, or of 32 where that is less
  int runs = 5;              // timed: prefill steps, or decode runs of `steps`; of every subject, interleaved
  double min_seconds = 0;    // prefill: of timed steps of every subject at least, in more runs if need be
  std::int64_t prompt = 16;  // decode: tokens of each prompt, not timed
  std::int64_t steps = 32;   // decode: timed steps of a run
  std::uint64_t seed = 1;    // of the token ids
  DType kv_dtype = DType::kBF16;
  bool spoil_check = false;  // every output that the check sees is another one than was drawn: it has to fail
};

struct BenchFit;

// A model to be timed and how its rows are called.
struct BenchSubject {
  std::string name;
  const Model* model = nullptr;
  // How an M is run (engine/bench_fit.h); empty: in one step.
  std::function<BenchFit(std::int64_t m)> fit = {};
  // Of the same weights; null: outputs are not compared.
  std::shared_ptr<const GreedyReference> reference = nullptr;
};

// What one linear of the model ran on.
struct LinearKernel {
  std::string name;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::string kernel;
  bool sparse = false;
};

struct BenchModelRow {
  std::string subject;
  BenchPhase phase = BenchPhase::kPrefill;
  std::string dtype;    // "int8"
  std::string pattern;  // "6:8"
  std::string head;     // dtype of the output head
  std::int64_t m = 0;
  std::int64_t sequences = 0;  // prefill: prompts in the step; decode: sequences verified to run in each step
  std::int64_t step_tokens = 0;     // the GEMM's M (of the last, smaller step the rest)
  GreedyCheck greedy;               // outputs that were compared before anything was timed
  std::string check = "ok";         // or what was wrong with them: no figures then; or "not compared"
  std::string note;                 // why M or step_tokens is not what was asked for; empty: it is
  Spread seconds;                   // of m tokens: a step, or as many as it takes
  double tokens_per_second = 0;     // from the median
  std::int64_t weight_bytes = 0;    // read by one step: all linears and the head
  std::int64_t kv_bytes = 0;        // decode: keys and values read by the middle step
  double bytes_per_token = 0;       // (weight_bytes + kv_bytes) / step_tokens
  double gigabytes_per_second = 0;  // (weight_bytes + kv_bytes) / seconds
  double linear_flops = 0;          // a step, as if dense
  double gigaflops_per_second = 0;
  double sparse_share = 0;  // of linear FLOPs (head included) that ran on sparse kernels, 0..1
  std::vector<LinearKernel> linears;
  std::string attention;  // on a card: what computes it, in words

  // None where outputs were wrong: `check` says how.
  bool has_figures() const { return greedy.wrong == 0; }
};

// Times every subject at every m, after it has run once in just that way - same kernels, same batch - on
// prompts whose greedy outputs the reference knows: all of decode's sequences for a few tokens, one token of
// each of prefill's prompts. What is wrong there has a row with no figures. Subjects are interleaved run by
// run, so that drift of the machine meets all alike. Random token ids. Prefill: ceil(m / 1024) prompts of
// min(m, 1024) tokens, in one step where it fits, of which each prompt's last logits are wanted; keys and
// values live for the layer that runs. Decode: m sequences. `progress` is called with the rows done so far.
// Throws kInterrupted; kUsage for m < 1 or beyond max_position.
std::vector<BenchModelRow> bench_model(std::span<const BenchSubject> subjects,
                                       const BenchModelOptions& options,
                                       const std::function<void(const BenchModelRow& row)>& on_row = {});

// The larger of bytes and operations of a step against what the machine can do at most; 1: all of it.
double share_of_limit(const BenchModelRow& row, const MachineLimits& limits);

}  // namespace slidesparse
