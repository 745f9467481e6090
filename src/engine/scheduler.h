#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/block_manager.h"
#include "slidesparse/engine/request.h"

namespace slidesparse {

struct SchedulerOptions {
  std::int64_t max_batched_tokens = 8192;  // tokens of a step; at least max_sequences, so that all can go on
  std::int64_t max_sequences = 256;        // sequences of a step
  // Tokens of prompt + output of a request. A model with P positions allows P + 1: the last token is drawn
  // but never fed.
  std::int64_t max_context = 4096;
  // Share of all pages, 0 to 1, that the start of a request leaves free for those that run, as far as they
  // can still grow. Without it a request may start only to be preempted soon after.
  double watermark = 0.01;
};

struct Request {
  std::int64_t id = 0;               // the caller's; no two live requests share one
  std::vector<std::int32_t> prompt;  // [at least 1] token ids
  std::int64_t max_new_tokens = 128;
  std::int64_t min_new_tokens = 0;  // stop tokens among these are tokens like any other
  std::vector<std::int64_t> stop_tokens;
  bool ignore_eos = false;  // all stop tokens are tokens like any other
};

inline constexpr std::int64_t kNone = -1;

// What a step does for one sequence: tokens [start, start + count) of prompt + output go through the model,
// at the positions of the same numbers.
struct StepEntry {
  std::int64_t id = 0;
  std::int64_t start = 0;
  std::int64_t count = 0;                // at least 1
  std::span<const std::int32_t> tokens;  // [count] token ids; empty when input_row says where the token is
  std::int64_t input_row = kNone;  // the input (count is 1) is what that wanted row of the step before drew
  std::span<const std::int32_t> table;  // [pages_for(start + count)] pages, see BlockTable
  bool want_last = false;               // logits of its last token are wanted and a token is drawn from them
  std::int64_t output_index = kNone;    // of the token drawn: 0 is the first new one
  std::int32_t slot = 0;                // the scheduler's own number of the sequence
};

// Entries that feed one token each come first, by arrival, then chunks of prompts, by arrival. The wanted
// rows of a step are its entries with want_last, in order.
struct Step {
  std::int64_t number = 0;  // of the scheduler's steps, from 0
  std::vector<StepEntry> entries;
  std::int64_t tokens = 0;
  std::int64_t wanted = 0;
  std::int64_t sequences() const { return static_cast<std::int64_t>(entries.size()); }
  bool all_decode() const { return tokens == sequences(); }  // one token each; otherwise mixed
};

struct NewToken {
  std::int64_t id = 0;
  std::int64_t index = 0;  // among the request's new tokens
  std::int32_t token = 0;
};

struct FinishedRequest {
  std::int64_t id = 0;
  StopReason reason = StopReason::kMaxTokens;  // kStopToken, kMaxTokens or kMaxModelLen (max_context)
  std::int64_t prompt_tokens = 0;
  std::span<const std::int32_t> output;  // all new tokens, the stop token not included
  std::int64_t preemptions = 0;          // how often it was started again
};

// What a completed step brought, in the order of its entries.
struct StepResult {
  std::vector<NewToken> tokens;  // stop tokens and what was drawn past them are left out
  std::vector<FinishedRequest> finished;
};

// Continuous batching with chunked prefill over a paged KV cache. It decides by counts, never by values of
// tokens, so step n + 1 can be scheduled while step n runs:
//
//   without overlap: schedule, run, complete, schedule, ...
//   with overlap:    schedule 0, schedule 1, complete 0, schedule 2, complete 1, ...
//
// Order of arrival is the only priority. Every running request arrived before every waiting one: the oldest
// waiting one starts first, and the youngest running one is preempted first. In each step every running
// request that has its pages goes on: by one decode token or, one prompt at a time, by as much of its prompt
// as fits. The oldest always gets pages, and every request becomes the oldest one day, so none starves.
//
// Pages. A request starts when its whole prompt gets pages at once (no prompt waits half-way) and takes one
// more whenever its output fills the last. If none is free, it first counts on pages that come back when the
// step in flight completes and sits out this step; then the youngest running one is preempted: it goes back
// to the front of the waiting queue, keeps its new tokens, and is prefilled again, prompt and new tokens. The
// youngest itself sits out until one is free or an older one needs its pages. Nobody starts while one sits
// out. Pages of who has ended or was preempted come back when no step in flight uses them; a request whose
// last token is on its way is not scheduled again, so its pages come back as soon as that step completes.
class Scheduler {
 public:
  // Plans for a cache of `pages` of `page_size` tokens. Throws kUsage for options that make no sense.
  Scheduler(const SchedulerOptions& options, std::int64_t pages, std::int64_t page_size);

  // Queues a request. Throws kInput for an empty prompt and one that can never run: prompt + 1 tokens are
  // more than max_context, or the prompt is more than all pages hold. Throws kUsage for an id that is live
  // already and numbers that make no sense. Nothing has changed then.
  void add(const Request& request);
  // Ends a request without a result; what a step in flight draws for it is dropped. False when no live
  // request has this id.
  bool cancel(std::int64_t id);

  // The next step, which is then in flight; at most two are. Null when there is nothing to schedule: with a
  // step in flight, complete that and ask again; with none, no request is left. The step and what its spans
  // show stay as they are until it has completed.
  const Step* schedule();
  // Takes the tokens drawn by the oldest step in flight, sampled [step.wanted] in the order of its wanted
  // rows. The result is valid until the next call of a function that is not const.
  const StepResult& complete(const Step& step, std::span<const std::int32_t> sampled);

  std::int64_t running() const { return static_cast<std::int64_t>(running_.size()); }
  std::int64_t waiting() const { return static_cast<std::int64_t>(waiting_.size()); }
  std::int64_t live() const { return static_cast<std::int64_t>(by_id_.size()); }  // added and not ended
  std::int64_t in_flight() const { return in_flight_; }                           // steps
  std::int64_t preemptions() const { return preemptions_; }                       // so far
  // max_context, or what all pages hold plus the last token, which needs none, when that is less. Requests
  // end there with kMaxModelLen.
  std::int64_t max_context() const { return context_; }
  const BlockManager& blocks() const { return blocks_; }

 private:
  enum class State {
    kWaiting,   // in waiting_; never started, or preempted
    kRunning,   // in running_
    kDraining,  // its last token is in flight
    kEnded,     // finished or cancelled; leaves when no step in flight has it
  };
  struct Sequence {
    std::int64_t id = 0;
    std::int64_t arrival = 0;
    State state = State::kEnded;
    std::int64_t prompt = 0;          // tokens
    std::int64_t limit = 0;           // tokens of prompt + output that it may reach
    bool limited_by_context = false;  // not by the tokens it asked for
    std::int64_t min_new_tokens = 0;
    std::vector<std::int64_t> stop_tokens;  // empty when ignored
    std::vector<std::int32_t> tokens;       // prompt + output as far as known; at most one is in flight
    std::int64_t planned = 0;               // tokens of prompt + output, those in flight included
    std::int64_t computed = 0;              // tokens whose keys and values are in the cache, or will be
    std::int64_t steps = 0;                 // in flight that have it
    std::int64_t row = 0;                   // wanted row of the last step that drew for it
    std::int64_t most_pages = 0;            // that it can ever take
    std::int64_t preemptions = 0;
    BlockTable table;
  };

  Sequence& at(std::int32_t slot) { return sequences_[static_cast<std::size_t>(slot)]; }
  void schedule_decodes(Step& step);
  bool make_room(std::size_t position, std::int64_t& promised);
  std::int64_t preempt_youngest();
  void continue_prompt(Step& step);
  void start_waiting(Step& step);
  void add_entry(Step& step, std::int32_t slot, std::int64_t count);
  void drain();
  void store(std::int32_t slot, std::int32_t token);
  void end(std::int32_t slot);
  void settle(std::int32_t slot);

  SchedulerOptions options_;
  BlockManager blocks_;
  std::int64_t context_ = 0;    // tokens
  std::int64_t watermark_ = 0;  // pages
  std::vector<Sequence> sequences_;
  std::vector<std::int32_t> free_slots_;
  std::unordered_map<std::int64_t, std::int32_t> by_id_;  // live requests
  std::vector<std::int32_t> running_;                     // slots by arrival
  std::map<std::int64_t, std::int32_t> waiting_;          // arrival -> slot
  std::int64_t arrivals_ = 0;
  std::int64_t leaving_pages_ = 0;  // of sequences that do not run, until no step in flight uses them
  std::array<Step, 2> steps_;
  std::size_t oldest_ = 0;  // of steps_
  std::int64_t in_flight_ = 0;
  std::int64_t scheduled_ = 0;  // steps so far
  std::int64_t preemptions_ = 0;
  StepResult result_;
};

}  // namespace slidesparse
