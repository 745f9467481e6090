#include "engine/scheduler.h"

#include <algorithm>
#include <limits>

#include "core/fail.h"

namespace slidesparse {
namespace {

// Positions are 32 bit numbers to the model.
constexpr std::int64_t kMostContext = std::numeric_limits<std::int32_t>::max();

void check_options(const SchedulerOptions& options) {
  if (options.max_sequences < 1 || options.max_batched_tokens < options.max_sequences) {
    fail(ErrorKind::kUsage,
         "{} tokens a step and {} sequences: at least 1 sequence and a token for each are needed",
         options.max_batched_tokens, options.max_sequences);
  }
  if (options.max_context < 2 || options.max_context > kMostContext) {
    fail(ErrorKind::kUsage, "a context of {} tokens: 2 to {} are possible", options.max_context,
         kMostContext);
  }
  if (!(options.watermark >= 0 && options.watermark <= 1)) {
    fail(ErrorKind::kUsage, "watermark {}: a share of the pages, 0 to 1", options.watermark);
  }
}

void check_request(const Request& request, std::int64_t max_context, const BlockManager& blocks) {
  const auto length = static_cast<std::int64_t>(request.prompt.size());
  if (length == 0) fail_input("request {}: the prompt has no tokens", request.id);
  if (length >= max_context) {
    fail_input("request {}: a prompt of {} tokens and a new one do not fit in a context of {} tokens",
               request.id, length, max_context);
  }
  if (blocks.pages_for(length) > blocks.pages()) {
    fail_input("request {}: a prompt of {} tokens needs {} pages of {} tokens, the cache has {} in all",
               request.id, length, blocks.pages_for(length), blocks.page_size(), blocks.pages());
  }
  if (request.max_new_tokens < 1 || request.min_new_tokens < 0 ||
      request.min_new_tokens > request.max_new_tokens) {
    fail(ErrorKind::kUsage, "request {}: {} to {} new tokens; at least 0, and at most 1 or more, are needed",
         request.id, request.min_new_tokens, request.max_new_tokens);
  }
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, std::int64_t pages, std::int64_t page_size)
    : options_(options), blocks_(pages, page_size) {
  check_options(options);
  context_ = std::min(options.max_context, pages * page_size + 1);
  watermark_ = static_cast<std::int64_t>(options.watermark * static_cast<double>(pages));
}

void Scheduler::add(const Request& request) {
  check_request(request, options_.max_context, blocks_);
  if (by_id_.contains(request.id)) {
    fail(ErrorKind::kUsage, "request {}: a request with this id has not ended yet", request.id);
  }
  if (free_slots_.empty()) {
    free_slots_.reserve(sequences_.size() + 1);
    sequences_.emplace_back();
    free_slots_.push_back(static_cast<std::int32_t>(sequences_.size() - 1));
  }
  const std::int32_t slot = free_slots_.back();
  Sequence& sequence = at(slot);
  sequence.id = request.id;
  sequence.arrival = arrivals_++;
  sequence.state = State::kWaiting;
  sequence.prompt = static_cast<std::int64_t>(request.prompt.size());
  sequence.limited_by_context = request.max_new_tokens > context_ - sequence.prompt;
  sequence.limit = sequence.limited_by_context ? context_ : sequence.prompt + request.max_new_tokens;
  sequence.min_new_tokens = request.min_new_tokens;
  sequence.stop_tokens.clear();
  if (!request.ignore_eos) sequence.stop_tokens = request.stop_tokens;
  // Steps show these to the runner, so they may not move when they grow.
  sequence.tokens.reserve(static_cast<std::size_t>(sequence.limit));
  sequence.tokens.assign(request.prompt.begin(), request.prompt.end());
  sequence.planned = sequence.prompt;
  sequence.computed = 0;
  sequence.most_pages = blocks_.pages_for(sequence.limit - 1);
  sequence.preemptions = 0;
  sequence.table.reserve(static_cast<std::size_t>(sequence.most_pages));
  waiting_.emplace(sequence.arrival, slot);
  by_id_.emplace(request.id, slot);
  free_slots_.pop_back();
}

bool Scheduler::cancel(std::int64_t id) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return false;
  const std::int32_t slot = found->second;
  end(slot);
  settle(slot);
  return true;
}

const Step* Scheduler::schedule() {
  require(in_flight_ < 2, "two steps are in flight: complete the older one first");
  Step& step = steps_[in_flight_ == 0 ? oldest_ : 1 - oldest_];
  step.entries.clear();
  step.tokens = 0;
  step.wanted = 0;
  schedule_decodes(step);
  continue_prompt(step);
  start_waiting(step);
  if (step.entries.empty()) return nullptr;
  drain();
  step.number = scheduled_++;
  ++in_flight_;
  return &step;
}

// One token for each running sequence that has one left to feed.
void Scheduler::schedule_decodes(Step& step) {
  std::int64_t promised = leaving_pages_;
  // make_room takes sequences off the end only, so none that has its entry already.
  for (std::size_t i = 0; i < running_.size(); ++i) {
    const std::int32_t slot = running_[i];
    Sequence& sequence = at(slot);
    if (sequence.planned - sequence.computed != 1) continue;
    if (blocks_.grow(sequence.table, sequence.planned) ||
        (make_room(i, promised) && blocks_.grow(sequence.table, sequence.planned))) {
      add_entry(step, slot, 1);
    }
  }
}

// Frees a page for the sequence at `position` of running_. False when it must sit out this step: for a page
// of the `promised` ones, which come back with the step in flight, or because it is the youngest.
bool Scheduler::make_room(std::size_t position, std::int64_t& promised) {
  while (blocks_.free() == 0) {
    if (promised > 0) {
      --promised;
      return false;
    }
    if (position + 1 == running_.size()) return false;
    promised += preempt_youngest();
  }
  return true;
}

// Returns how many of its pages come back only when the step in flight completes.
std::int64_t Scheduler::preempt_youngest() {
  const std::int32_t slot = running_.back();
  Sequence& sequence = at(slot);
  running_.pop_back();
  waiting_.emplace(sequence.arrival, slot);
  leaving_pages_ += static_cast<std::int64_t>(sequence.table.size());
  sequence.state = State::kWaiting;
  sequence.computed = 0;
  ++sequence.preemptions;
  ++preemptions_;
  settle(slot);
  return static_cast<std::int64_t>(sequence.table.size());
}

// The next chunk of the prompt that is under way. There is one at most, the youngest's: a chunk that is not
// its prompt's last takes all tokens left in a step, so nobody starts after it. It has its pages. Decodes
// leave a token for it: they are fewer than max_sequences then.
void Scheduler::continue_prompt(Step& step) {
  if (running_.empty()) return;
  const std::int32_t slot = running_.back();
  const std::int64_t left = at(slot).planned - at(slot).computed;
  if (left > 1) add_entry(step, slot, std::min(left, options_.max_batched_tokens - step.tokens));
}

// Starts waiting requests, oldest first, while there are places, tokens and pages. Alone, a request always
// starts: what it needs and what it can grow by are no more than all pages. When a running one sits out, no
// page is free or the first in line has just given up fewer than it needs to start again: nobody starts.
void Scheduler::start_waiting(Step& step) {
  std::int64_t growth = 0;  // pages that running sequences can still ask for
  for (const std::int32_t slot : running_) {
    growth += at(slot).most_pages - static_cast<std::int64_t>(at(slot).table.size());
  }
  while (!waiting_.empty() && running() < options_.max_sequences &&
         step.tokens < options_.max_batched_tokens) {
    const std::int32_t slot = waiting_.begin()->second;
    Sequence& sequence = at(slot);
    // Preempted while a step has it: its last token is not known yet, and its pages are not back.
    if (sequence.steps > 0) return;
    const std::int64_t need = blocks_.pages_for(sequence.planned);
    growth += sequence.most_pages - need;
    if (blocks_.free() < need + std::min(watermark_, growth)) return;
    blocks_.grow(sequence.table, sequence.planned);
    waiting_.erase(waiting_.begin());
    running_.push_back(slot);
    sequence.state = State::kRunning;
    add_entry(step, slot, std::min(sequence.planned, options_.max_batched_tokens - step.tokens));
  }
}

void Scheduler::add_entry(Step& step, std::int32_t slot, std::int64_t count) {
  Sequence& sequence = at(slot);
  StepEntry& entry = step.entries.emplace_back();
  entry.id = sequence.id;
  entry.slot = slot;
  entry.start = sequence.computed;
  entry.count = count;
  sequence.computed += count;
  entry.table =
      std::span(sequence.table).first(static_cast<std::size_t>(blocks_.pages_for(sequence.computed)));
  if (sequence.computed <= static_cast<std::int64_t>(sequence.tokens.size())) {
    entry.tokens = std::span(sequence.tokens)
                       .subspan(static_cast<std::size_t>(entry.start), static_cast<std::size_t>(count));
  } else {
    entry.input_row = sequence.row;
  }
  if (sequence.computed == sequence.planned) {
    entry.want_last = true;
    entry.output_index = sequence.planned - sequence.prompt;
    sequence.row = step.wanted++;
    ++sequence.planned;
  }
  ++sequence.steps;
  step.tokens += count;
}

// Takes out who needs no further step.
void Scheduler::drain() {
  std::erase_if(running_, [this](std::int32_t slot) {
    Sequence& sequence = at(slot);
    if (sequence.planned < sequence.limit) return false;
    sequence.state = State::kDraining;
    leaving_pages_ += static_cast<std::int64_t>(sequence.table.size());
    return true;
  });
}

const StepResult& Scheduler::complete(const Step& step, std::span<const std::int32_t> sampled) {
  require(in_flight_ > 0 && &step == &steps_[oldest_], "step {} is not the oldest in flight", step.number);
  require(static_cast<std::int64_t>(sampled.size()) == step.wanted, "step {} wants {} tokens, not {}",
          step.number, step.wanted, sampled.size());
  result_.tokens.clear();
  result_.finished.clear();
  std::size_t row = 0;
  for (const StepEntry& entry : step.entries) {
    --at(entry.slot).steps;
    if (entry.want_last) store(entry.slot, sampled[row++]);
    settle(entry.slot);
  }
  oldest_ = 1 - oldest_;
  --in_flight_;
  return result_;
}

// Keeps a token that was drawn for a sequence, unless it has ended meanwhile, and ends it if that was the
// last.
void Scheduler::store(std::int32_t slot, std::int32_t token) {
  Sequence& sequence = at(slot);
  if (sequence.state == State::kEnded) return;
  const std::int64_t index = static_cast<std::int64_t>(sequence.tokens.size()) - sequence.prompt;
  StopReason reason = StopReason::kStopToken;
  if (index < sequence.min_new_tokens ||
      std::ranges::find(sequence.stop_tokens, token) == sequence.stop_tokens.end()) {
    sequence.tokens.push_back(token);
    result_.tokens.push_back({sequence.id, index, token});
    const auto length = static_cast<std::int64_t>(sequence.tokens.size());
    if (length < sequence.limit) return;
    reason = sequence.limited_by_context ? StopReason::kMaxModelLen : StopReason::kMaxTokens;
  }
  result_.finished.push_back({sequence.id, reason, sequence.prompt,
                              std::span(sequence.tokens).subspan(static_cast<std::size_t>(sequence.prompt)),
                              sequence.preemptions});
  end(slot);
}

// Takes a live sequence off every list.
void Scheduler::end(std::int32_t slot) {
  Sequence& sequence = at(slot);
  if (sequence.state == State::kRunning) {
    running_.erase(std::ranges::find(running_, slot));
    leaving_pages_ += static_cast<std::int64_t>(sequence.table.size());
  } else if (sequence.state == State::kWaiting) {
    waiting_.erase(sequence.arrival);
  }
  by_id_.erase(sequence.id);
  sequence.state = State::kEnded;
}

// Gives back what a sequence that does not run holds, once no step in flight has it.
void Scheduler::settle(std::int32_t slot) {
  Sequence& sequence = at(slot);
  if (sequence.steps > 0 || sequence.state == State::kRunning) return;
  leaving_pages_ -= static_cast<std::int64_t>(sequence.table.size());
  blocks_.release(sequence.table);
  if (sequence.state == State::kEnded) free_slots_.push_back(slot);
}

}  // namespace slidesparse
