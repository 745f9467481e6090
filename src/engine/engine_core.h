#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/sequences.h"
#include "engine/step_runner.h"
#include "engine/step_times.h"
#include "model/model.h"

namespace slidesparse {

struct EngineCoreOptions {
  SchedulerOptions scheduler;
  std::int64_t pages = 0;       // of the KV cache
  std::int64_t page_size = 64;  // tokens
  DType kv_dtype = DType::kBF16;
  bool overlap = true;    // schedule a step while the one before runs
  bool graphs = true;     // RunnerLimits
  bool penalties = true;  // whether requests may have a repetition penalty: takes memory on a card
};

struct CoreRequest {
  Request request;
  SamplingOptions sampling;
  int logprobs = -1;  // GenerationRequest::logprobs
};

// What an engine tells its owner, in the order in which it happens. Any of them may be empty.
struct CoreSink {
  // `logprobs` is null for a request that did not ask for any.
  std::function<void(const NewToken& token, const RowLogprobs* logprobs)> on_token;
  std::function<void(const FinishedRequest& request)> on_finish;
  // A request that cannot go on: its logits are no numbers. Nothing else comes of it; the others go on.
  std::function<void(std::int64_t id, const std::string& why)> on_error;
};

struct EngineCoreMetrics {
  std::int64_t steps = 0;
  std::int64_t tokens = 0;  // that went through the model
  std::int64_t drawn = 0;   // new tokens, stop tokens and surplus ones included
  double host_seconds = 0;  // of scheduling, building batches and taking results in; waits not included
  double wait_seconds = 0;  // for the device
};

// Many requests on one model: schedule -> run -> take in. Not thread-safe: one thread owns it.
class EngineCore {
 public:
  // `model` has to outlive it. Throws kUsage for options that make no sense, kUnsupported when memory does
  // not suffice.
  EngineCore(const Model& model, const EngineCoreOptions& options);

  // Queues a request. Throws kInput or kUsage for one that cannot be run (token ids, lengths, sampling
  // values), and kUnsupported for more log probabilities than the device gives, with what was wrong; nothing
  // has changed then.
  void submit(const CoreRequest& request);
  // Ends a request; false when there is none of this id. Nothing more comes of it.
  bool cancel(std::int64_t id);

  // One turn: starts the next step, if there is one, and takes in the oldest that is under way when no other
  // can be started beside it. False: there is nothing to do until something is submitted.
  bool turn(const CoreSink& sink);

  const Scheduler& scheduler() const { return scheduler_; }
  const EngineCoreMetrics& metrics() const { return metrics_; }
  const StepTimes& step_times() const { return step_times_; }

 private:
  struct Live {
    SamplingOptions sampling;
    int logprobs = -1;
    std::vector<std::int32_t> prompt;  // until the penalty has counted it; empty without one
    std::int32_t slot = -1;            // of the tokens that the penalty counts
  };
  struct Flight {
    const Step* step = nullptr;
    std::vector<std::int64_t> ids;  // of the wanted rows
    double start = 0;               // now_seconds()
  };
  void start(const Step& step);
  void take_in(const CoreSink& sink);
  DrawRow draw_row_of(const StepEntry& entry);
  void forget(std::int64_t id);

  const Model& model_;
  EngineCoreOptions options_;
  Scheduler scheduler_;
  std::unique_ptr<StepRunner> runner_;
  StepBuilder builder_;
  std::vector<DrawRow> rows_;
  std::vector<std::int32_t> drawn_;
  std::deque<Flight> flights_;
  std::unordered_map<std::int64_t, Live> live_;
  std::vector<std::int32_t> free_slots_;
  EngineCoreMetrics metrics_;
  StepTimes step_times_;
};

}  // namespace slidesparse
