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
#include "model/model.h"

namespace slidesparse {

struct EngineOptions {
  SchedulerOptions scheduler;
  std::int64_t pages = 0;       // of the KV cache
  std::int64_t page_size = 64;  // tokens
  bool overlap = true;          // schedule a step while the one before runs
  bool graphs = true;           // RunnerLimits
  bool penalties = true;        // whether requests may have a repetition penalty: takes memory on a card
};

struct EngineRequest {
  Request request;
  SamplingOptions sampling;
};

// What an engine tells its owner, in the order in which it happens. Any of them may be empty.
struct EngineSink {
  std::function<void(const NewToken& token)> on_token;
  std::function<void(const FinishedRequest& request)> on_finish;
  // A request that cannot go on: its logits are no numbers. Nothing else comes of it; the others go on.
  std::function<void(std::int64_t id, const std::string& why)> on_error;
};

struct EngineMetrics {
  std::int64_t steps = 0;
  std::int64_t tokens = 0;  // that went through the model
  std::int64_t drawn = 0;   // new tokens, stop tokens and surplus ones included
  double host_seconds = 0;  // of scheduling, building batches and taking results in; waits not included
  double wait_seconds = 0;  // for the device
};

// Many requests on one model: schedule -> run -> take in. Not thread-safe: one thread owns it.
class Engine {
 public:
  // `model` has to outlive it. Throws kUsage for options that make no sense, kUnsupported when memory does
  // not suffice.
  Engine(const Model& model, const EngineOptions& options);

  // Queues a request. Throws kInput or kUsage for one that cannot be run (token ids, lengths, sampling
  // values), with what was wrong; nothing has changed then.
  void submit(const EngineRequest& request);
  // Ends a request; false when there is none of this id. Nothing more comes of it.
  bool cancel(std::int64_t id);

  // One turn: starts the next step, if there is one, and takes in the oldest that is under way when no other
  // can be started beside it. False: there is nothing to do until something is submitted.
  bool turn(const EngineSink& sink);

  const Scheduler& scheduler() const { return scheduler_; }
  const EngineMetrics& metrics() const { return metrics_; }

 private:
  struct Live {
    SamplingOptions sampling;
    std::vector<std::int32_t> prompt;  // until the penalty has counted it; empty without one
    std::int32_t slot = -1;            // of the tokens that the penalty counts
  };
  struct Flight {
    const Step* step = nullptr;
    std::vector<std::int64_t> ids;  // of the wanted rows
  };
  void start(const Step& step);
  void take_in(const EngineSink& sink);
  SampleRow sample_row_of(const StepEntry& entry);
  void forget(std::int64_t id);

  const Model& model_;
  EngineOptions options_;
  Scheduler scheduler_;
  std::unique_ptr<StepRunner> runner_;
  StepBuilder builder_;
  std::vector<SampleRow> rows_;
  std::vector<std::int32_t> drawn_;
  std::deque<Flight> flights_;
  std::unordered_map<std::int64_t, Live> live_;
  std::vector<std::int32_t> free_slots_;
  EngineMetrics metrics_;
};

}  // namespace slidesparse
