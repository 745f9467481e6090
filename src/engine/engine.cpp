#include "slidesparse/engine/engine.h"

#include <deque>
#include <exception>
#include <unordered_map>
#include <utility>

#include "core/fail.h"
#include "engine/engine_core.h"
#include "engine/engine_sizes.h"
#include "engine/make_engine.h"

namespace slidesparse {

// Requests in the caller's words over EngineCore: text, ids, events in a queue, totals. A request is live
// here until its last event has been taken, so that totals agree with what the caller has seen.
struct Engine::Impl {
  Impl(EngineParts given, const EngineOptions& options)
      : parts(std::move(given)),
        core(*parts.model, core_options(parts.model->config(), parts.model->device().kind, options)) {
    sink.on_token = [this](const NewToken& token, const RowLogprobs* logprobs) { tell(token, logprobs); };
    sink.on_finish = [this](const FinishedRequest& finished) {
      tell_end(finished.id, finished.reason, static_cast<std::int64_t>(finished.output.size()),
               finished.preemptions);
    };
    sink.on_error = [this](std::int64_t id, const std::string& why) {
      Event& event = add_event(id, EventKind::kFailed);
      event.error = fmt::format("request {}: {}: the model's weights are damaged", id, why);
    };
  }
  // The sink points here.
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  std::int64_t submit(const GenerationRequest& request);
  bool cancel(std::int64_t id);
  bool step();
  Event take();
  EngineMetrics metrics() const;

  struct Live {
    std::optional<StreamDecoder> text;
    std::int64_t prompt_tokens = 0;
  };
  std::vector<std::int32_t> prompt_of(const GenerationRequest& request) const;
  void check_usable() const;
  Event& add_event(std::int64_t id, EventKind kind);
  void tell(const NewToken& token, const RowLogprobs* logprobs);
  void tell_end(std::int64_t id, StopReason reason, std::int64_t output_tokens, std::int64_t preemptions);

  EngineParts parts;
  EngineCore core;
  CoreSink sink;
  std::deque<Event> events;
  std::unordered_map<std::int64_t, Live> live;
  std::int64_t next_id = 0;
  std::string broken;    // why no further step is possible
  EngineMetrics totals;  // requests and tokens, as far as they are counted here
};

void Engine::Impl::check_usable() const {
  if (!broken.empty()) fail(ErrorKind::kInternal, "the engine has stopped, make another one: {}", broken);
}

std::vector<std::int32_t> Engine::Impl::prompt_of(const GenerationRequest& request) const {
  if (!request.tokens.empty() && !request.text.empty())
    fail(ErrorKind::kUsage, "request {}: both token ids and text are given: one of both", next_id);
  if (request.text.empty()) return request.tokens;
  if (!parts.tokenizer) {
    fail(ErrorKind::kUsage,
         "request {}: text, but the model has no tokenizer: give token ids or "
         "ModelSource::tokenizer",
         next_id);
  }
  return parts.tokenizer->encode(request.text, request.add_special_tokens);
}

std::int64_t Engine::Impl::submit(const GenerationRequest& request) {
  check_usable();
  const std::int64_t id = next_id;
  if (request.min_tokens < 0 || request.max_tokens < request.min_tokens) {
    fail(ErrorKind::kUsage,
         "request {}: max_tokens {}, min_tokens {}: 0 <= min_tokens <= max_tokens is needed", id,
         request.max_tokens, request.min_tokens);
  }
  CoreRequest made;
  made.sampling = request.sampling;
  made.logprobs = request.logprobs;
  made.request.id = id;
  made.request.prompt = prompt_of(request);
  made.request.min_new_tokens = request.min_tokens;
  // Without any the request is checked all the same, as one that wants a token.
  made.request.max_new_tokens = request.max_tokens > 0 ? request.max_tokens : 1;
  made.request.stop_tokens = request.stop_tokens;
  if (!request.ignore_eos) {
    made.request.stop_tokens.insert(made.request.stop_tokens.end(), parts.stop_tokens.begin(),
                                    parts.stop_tokens.end());
  }
  const auto length = static_cast<std::int64_t>(made.request.prompt.size());
  if (length >= core.scheduler().max_context()) {
    fail_input(
        "request {}: a prompt of {} tokens leaves no room for a new one within max_model_len {}: shorten it "
        "to "
        "{}, or make the engine for longer ones",
        id, length, core.scheduler().max_context(), core.scheduler().max_context() - 1);
  }
  core.submit(made);
  ++next_id;
  ++totals.requests_submitted;
  totals.prompt_tokens += length;
  Live& entry = live[id];
  entry.prompt_tokens = length;
  if (parts.tokenizer) entry.text.emplace(*parts.tokenizer, /*skip_special=*/true);
  if (request.max_tokens == 0) {
    core.cancel(id);
    tell_end(id, StopReason::kMaxTokens, 0, 0);
  }
  return id;
}

bool Engine::Impl::cancel(std::int64_t id) {
  if (live.erase(id) == 0) return false;
  core.cancel(id);  // false when only its last events are left
  std::erase_if(events, [id](const Event& event) { return event.request == id; });
  ++totals.requests_cancelled;
  return true;
}

bool Engine::Impl::step() {
  check_usable();
  try {
    return core.turn(sink);
  } catch (const std::exception& error) {
    broken = error.what();
    throw;
  }
}

Event& Engine::Impl::add_event(std::int64_t id, EventKind kind) {
  Event& event = events.emplace_back();
  event.request = id;
  event.kind = kind;
  return event;
}

void Engine::Impl::tell(const NewToken& token, const RowLogprobs* logprobs) {
  Event& event = add_event(token.id, EventKind::kToken);
  event.token = token.token;
  event.index = token.index;
  Live& entry = live.at(token.id);
  if (entry.text) event.text = entry.text->push(token.token);
  if (logprobs == nullptr) return;
  event.logprob = logprobs->logprob;
  event.top = logprobs->top;
}

void Engine::Impl::tell_end(std::int64_t id, StopReason reason, std::int64_t output_tokens,
                            std::int64_t preemptions) {
  Event& event = add_event(id, EventKind::kFinished);
  Live& entry = live.at(id);
  if (entry.text) event.text = entry.text->finish();
  event.reason = reason;
  event.prompt_tokens = entry.prompt_tokens;
  event.output_tokens = output_tokens;
  event.preemptions = preemptions;
}

Event Engine::Impl::take() {
  Event event = std::move(events.front());
  events.pop_front();
  switch (event.kind) {
    case EventKind::kToken:
      ++totals.generation_tokens;
      return event;
    case EventKind::kFinished:
      ++totals.requests_finished;
      break;
    case EventKind::kFailed:
      ++totals.requests_failed;
      break;
  }
  live.erase(event.request);
  return event;
}

EngineMetrics Engine::Impl::metrics() const {
  const Scheduler& scheduler = core.scheduler();
  EngineMetrics metrics = totals;
  metrics.requests_waiting = scheduler.waiting();
  metrics.requests_running = static_cast<std::int64_t>(live.size()) - scheduler.waiting();
  metrics.preemptions = scheduler.preemptions();
  metrics.page_size = scheduler.blocks().page_size();
  metrics.kv_pages_total = scheduler.blocks().pages();
  metrics.kv_pages_used = scheduler.blocks().used();
  metrics.kv_pages_peak = scheduler.blocks().peak();
  metrics.steps = core.metrics().steps;
  metrics.step_tokens = core.metrics().tokens;
  metrics.step_seconds_p50 = core.step_times().quantile(0.5);
  metrics.step_seconds_p99 = core.step_times().quantile(0.99);
  metrics.busy_seconds = core.step_times().sum();
  return metrics;
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;

std::int64_t Engine::submit(const GenerationRequest& request) {
  return impl_->submit(request);
}
bool Engine::cancel(std::int64_t request) {
  return impl_->cancel(request);
}
bool Engine::step() {
  return impl_->step();
}
std::optional<Event> Engine::poll() {
  if (impl_->events.empty()) return std::nullopt;
  return impl_->take();
}
std::optional<Event> Engine::next() {
  while (impl_->events.empty()) {
    if (!impl_->step()) return std::nullopt;
  }
  return impl_->take();
}
EngineMetrics Engine::metrics() const {
  return impl_->metrics();
}
std::int64_t Engine::vocab() const {
  return impl_->parts.model->config().vocab;
}
std::int64_t Engine::max_model_len() const {
  return impl_->core.scheduler().max_context();
}
bool Engine::has_tokenizer() const {
  return impl_->parts.tokenizer.has_value();
}

Engine make_engine(EngineParts parts, const EngineOptions& options) {
  return Engine(std::make_unique<Engine::Impl>(std::move(parts), options));
}

}  // namespace slidesparse
