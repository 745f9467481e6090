#include "engine/engine_core.h"

#include <algorithm>
#include <utility>

#include "core/checked.h"
#include "core/fail.h"
#include "core/samples.h"

namespace slidesparse {
namespace {

EngineCoreOptions checked(const Model& model, EngineCoreOptions options) {
  // The last token is drawn but never fed.
  options.scheduler.max_context = std::min(options.scheduler.max_context, model.config().max_position + 1);
  return options;
}

RunnerLimits limits_of(const EngineCoreOptions& options, const Scheduler& scheduler) {
  RunnerLimits limits;
  limits.max_tokens = options.scheduler.max_batched_tokens;
  limits.max_sequences = options.scheduler.max_sequences;
  limits.max_context = scheduler.max_context() - 1;
  limits.pages = options.pages;
  limits.page_size = options.page_size;
  limits.kv.dtype = options.kv_dtype;
  limits.graphs = options.graphs;
  limits.penalties = options.penalties;
  return limits;
}

}  // namespace

EngineCore::EngineCore(const Model& model, const EngineCoreOptions& options)
    : model_(model),
      options_(checked(model, options)),
      scheduler_(options_.scheduler, options_.pages, options_.page_size),
      runner_(make_step_runner(model, limits_of(options_, scheduler_))),
      builder_(runner_->max_blocks()) {
  // Besides those that run, as many may have their last token on its way.
  for (std::int64_t i = 2 * options_.scheduler.max_sequences; i-- > 0;)
    free_slots_.push_back(static_cast<std::int32_t>(i));
}

void EngineCore::submit(const CoreRequest& request) {
  check_sampling_options(request.sampling);
  const bool penalty = request.sampling.repetition_penalty != 1;
  if (penalty && !options_.penalties)
    fail(ErrorKind::kUsage, "request {}: a repetition penalty, which this engine was made without",
         request.request.id);
  for (std::size_t i = 0; i < request.request.prompt.size(); ++i) {
    const std::int32_t token = request.request.prompt[i];
    if (token < 0 || token >= model_.config().vocab) {
      fail_input("request {}: token {} of its prompt is {}, which is not in the vocabulary of {} tokens",
                 request.request.id, i, token, model_.config().vocab);
    }
  }
  if (request.logprobs < -1 || request.logprobs > kMostLogprobs) {
    fail(ErrorKind::kUsage, "request {}: logprobs {}: -1 (none) to {} are possible", request.request.id,
         request.logprobs, kMostLogprobs);
  }
  if (request.logprobs > runner_->most_logprobs()) {
    fail(ErrorKind::kUnsupported, "request {}: logprobs {}: a vocabulary of {} tokens allows {} on a card",
         request.request.id, request.logprobs, model_.config().vocab, runner_->most_logprobs());
  }
  scheduler_.add(request.request);
  Live& live = live_[request.request.id];
  live = {};
  live.sampling = request.sampling;
  live.logprobs = request.logprobs;
  if (penalty) live.prompt = request.request.prompt;
}

bool EngineCore::cancel(std::int64_t id) {
  if (!scheduler_.cancel(id)) return false;
  forget(id);
  return true;
}

void EngineCore::forget(std::int64_t id) {
  const auto found = live_.find(id);
  if (found == live_.end()) return;
  if (found->second.slot >= 0) free_slots_.push_back(found->second.slot);
  live_.erase(found);
}

DrawRow EngineCore::draw_row_of(const StepEntry& entry) {
  Live& live = live_.at(entry.id);
  if (live.sampling.repetition_penalty != 1 && live.slot < 0) {
    require(!free_slots_.empty(), "more requests with a penalty run than sequences");
    live.slot = free_slots_.back();
    free_slots_.pop_back();
    runner_->see(live.slot, live.prompt);
    live.prompt = {};
  }
  return {sample_row(live.sampling, static_cast<std::uint64_t>(entry.output_index), std::max(live.slot, 0)),
          live.logprobs};
}

void EngineCore::start(const Step& step) {
  builder_.clear();
  rows_.clear();
  Flight flight;
  flight.step = &step;
  flight.start = now_seconds();
  for (const StepEntry& entry : step.entries) {
    if (entry.input_row >= 0) {
      const auto fed = static_cast<std::int32_t>(-1 - entry.input_row);
      builder_.add({&fed, 1}, entry.start, entry.table);
    } else {
      builder_.add(entry.tokens, entry.start, entry.table);
    }
    if (!entry.want_last) continue;
    builder_.want_last();
    rows_.push_back(draw_row_of(entry));
    flight.ids.push_back(entry.id);
  }
  runner_->start(builder_.batch(), rows_);
  flights_.push_back(std::move(flight));
  ++metrics_.steps;
  metrics_.tokens += step.tokens;
  metrics_.drawn += step.wanted;
}

void EngineCore::take_in(const CoreSink& sink) {
  const double before = now_seconds();
  const DrawnRows drawn = runner_->finish();
  const double arrival = now_seconds();
  metrics_.wait_seconds += arrival - before;
  const Flight flight = std::move(flights_.front());
  flights_.pop_front();
  step_times_.add(flight.start, arrival);
  drawn_.assign(drawn.tokens.begin(), drawn.tokens.end());
  for (std::size_t i = 0; i < drawn_.size(); ++i) {
    if (drawn_[i] >= 0) continue;
    drawn_[i] = 0;
    if (!cancel(flight.ids[i])) continue;  // it has ended already
    if (sink.on_error) sink.on_error(flight.ids[i], "every logit is NaN or -inf");
  }
  const StepResult& result = scheduler_.complete(*flight.step, drawn_);
  // Tokens come in the order of the wanted rows, some of which have none.
  std::size_t row = 0;
  for (const NewToken& token : result.tokens) {
    while (flight.ids[row] != token.id) ++row;
    const bool told = !drawn.logprobs.empty() && live_.at(token.id).logprobs >= 0;
    if (sink.on_token) sink.on_token(token, told ? &drawn.logprobs[row] : nullptr);
  }
  for (const FinishedRequest& finished : result.finished) {
    if (sink.on_finish) sink.on_finish(finished);
    forget(finished.id);
  }
}

bool EngineCore::turn(const CoreSink& sink) {
  const double start_time = now_seconds();
  const double waited = metrics_.wait_seconds;
  const std::size_t most = options_.overlap ? 2 : 1;
  const Step* step = flights_.size() < most ? scheduler_.schedule() : nullptr;
  if (step != nullptr) start(*step);
  const bool busy = !flights_.empty();
  if (busy && (step == nullptr || flights_.size() == most)) take_in(sink);
  metrics_.host_seconds += now_seconds() - start_time - (metrics_.wait_seconds - waited);
  return busy || step != nullptr;
}

}  // namespace slidesparse
