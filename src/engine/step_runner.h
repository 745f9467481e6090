#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/sample_rules.h"
#include "model/model.h"
#include "slidesparse/engine/request.h"

namespace slidesparse {

// Sizes for which a runner makes ready.
struct RunnerLimits {
  std::int64_t max_tokens = 0;     // of a step
  std::int64_t max_sequences = 0;  // of a step, and wanted rows
  std::int64_t max_context = 0;    // tokens of a sequence
  std::int64_t pages = 0;          // of the KV cache
  std::int64_t page_size = 64;     // tokens
  KvCacheKind kv = {};
  bool graphs = true;      // on a card: steps of one token a sequence are CUDA graphs
  bool penalties = false;  // some request may have a repetition penalty
};

// How the token of one wanted row is drawn, and what is told of it.
struct DrawRow {
  SampleRow sample;
  int logprobs = -1;  // GenerationRequest::logprobs
};

struct RowLogprobs {
  float logprob = 0;              // of the token drawn; -inf for -1
  std::vector<TokenLogprob> top;  // as many as were asked for, descending, ties by id
};

// What a step drew.
struct DrawnRows {
  std::span<const std::int32_t> tokens;   // [wanted rows]; -1 where every logit was NaN or -inf
  std::span<const RowLogprobs> logprobs;  // the same; empty when no row asked for any
};

// Runs steps of a model and draws a token from the logits of each wanted row, on the CPU or on a card. On a
// card steps follow each other there: step n + 1 can be started while step n runs.
class StepRunner {
 public:
  virtual ~StepRunner() = default;

  // Starts a step. rows [wanted rows of the batch]. A token id -1 - r of the batch stands for what row r of
  // the step before draws. What the arguments point at may change when this returns. At most two steps may be
  // under way. Throws as Model::forward does; nothing is under way then that was not before.
  virtual void start(const Batch& batch, std::span<const DrawRow> rows) = 0;
  // Waits for the oldest step under way: what it drew, valid until the next call but one of start(). Throws
  // kInternal with what a card reports.
  virtual DrawnRows finish() = 0;
  // Tokens that the penalty of the requests in `slot` counts from now on, instead of all before.
  virtual void see(std::int32_t slot, std::span<const std::int32_t> tokens) = 0;

  // The most alternatives beside a drawn token that it can tell; -1: no log probabilities at all.
  virtual int most_logprobs() const = 0;
  // Width of a block table.
  virtual std::int64_t max_blocks() const = 0;
};

// The runner of the device that the model is on, with a KV cache of its own. `model` has to outlive it.
// Throws kUsage for limits that make no sense and kUnsupported when memory does not suffice.
std::unique_ptr<StepRunner> make_step_runner(const Model& model, const RunnerLimits& limits);

}  // namespace slidesparse
