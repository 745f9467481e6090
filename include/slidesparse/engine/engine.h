#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "slidesparse/core/dtype.h"
#include "slidesparse/core/error.h"
#include "slidesparse/engine/request.h"
#include "slidesparse/format/pattern.h"

namespace slidesparse {

// Which model, where it runs, and how the kernels of its linears are chosen.
struct ModelSource {
  // A model directory: packed by `slidesparse convert`, compressed-tensors W8A8, or plain BF16/FP16. Or the
  // name of a known shape ("llama3.2-1b", ...), which gets random weights. One of both.
  std::string directory = {};
  std::string preset = {};
  // Of a preset:
  DType dtype = DType::kI8;                     // kI8, kF8E4M3 or kBF16
  Pattern pattern = Pattern::of_half_group(4);  // 6:8
  std::int64_t layers = 0;                      // only the first so many; 0: all
  std::uint64_t seed = 0;                       // of the weights

  // Type of the output head: "bf16", "int8" or "fp8"; a BF16 one is quantised when it is loaded. Empty: as it
  // is stored, BF16 of a preset.
  std::string head = {};

  // tokenizer.json of text prompts. Empty: the directory's own, if it has one.
  std::string tokenizer = {};

  std::string device = {};                 // "cpu", "cuda", or empty: cuda where there is a card
  std::vector<std::string> backends = {};  // to use, best first; empty: all of the device
  std::string tuning_cache = {};           // that `slidesparse tune` wrote; empty: on a card the default one
  // On a card: forms of the weights that stay there: "smallest", "balanced" (one each), "fastest" (any).
  std::string weights = "fastest";
  std::int64_t memory_limit = 0;  // bytes of a card; 0: what it has
};

// Sizes for which an engine makes ready. 0 where it says so: chosen from the rest.
struct EngineOptions {
  std::int64_t max_num_seqs = 64;  // sequences of a step
  // Tokens of a step, at least max_num_seqs. Longer prompts go in chunks.
  std::int64_t max_num_batched_tokens = 2048;
  // Tokens of prompt and output of one sequence, 2 or more. At most the model's positions and the one token
  // that is drawn and never fed. 0: that, or what all pages hold.
  std::int64_t max_model_len = 0;
  std::int64_t page_size = 64;  // tokens of a page of the KV cache; on a card a multiple of 16
  // Pages of the KV cache; at least what one sequence of max_model_len tokens takes. 0: what max_num_seqs
  // such sequences take, but no more than 2 GiB.
  std::int64_t kv_pages = 0;
  // Of keys and values: kBF16, or on a card kF8E4M3, which takes half the memory and rounds them.
  DType kv_cache_dtype = DType::kBF16;
  // Steps hold one sequence, so a request's tokens do not depend on what else is there: without it another
  // batch can round a logit of an FP8 or BF16 model differently. Slower with many requests.
  bool deterministic = false;
};

// What an engine has done and is doing. Requests: submitted = waiting + running + finished + failed +
// cancelled, each in one of them.
struct EngineMetrics {
  std::int64_t requests_submitted = 0;
  std::int64_t requests_waiting = 0;   // for their first step, or to be started again
  std::int64_t requests_running = 0;   // those with events that nobody has taken yet included
  std::int64_t requests_finished = 0;  // their last event has been taken
  std::int64_t requests_failed = 0;    // the same
  std::int64_t requests_cancelled = 0;

  std::int64_t prompt_tokens = 0;      // of all requests submitted
  std::int64_t generation_tokens = 0;  // kToken events taken
  std::int64_t preemptions = 0;

  std::int64_t page_size = 0;  // tokens
  std::int64_t kv_pages_total = 0;
  std::int64_t kv_pages_used = 0;
  std::int64_t kv_pages_peak = 0;

  std::int64_t steps = 0;
  std::int64_t step_tokens = 0;  // that went through the model, prompts included
  double step_seconds_p50 = 0;   // of the last 1024 steps; 0 before the first
  double step_seconds_p99 = 0;
  double busy_seconds = 0;            // in which steps ran
  double tokens_per_second() const {  // new tokens per busy second
    return busy_seconds > 0 ? static_cast<double>(generation_tokens) / busy_seconds : 0;
  }
};

// Many requests on one model: continuous batching over a paged KV cache. It works inside step() and next(),
// on the caller's thread (and the library's worker threads); nothing happens between calls. Not thread-safe:
// one thread at a time.
//
//   Engine engine = Engine::load({.directory = "llama-6of8"});
//   engine.submit({.text = "The capital of France is"});
//   while (const auto event = engine.next()) std::fputs(event->text.c_str(), stdout);
class Engine {
 public:
  // Opens the model and makes ready for the sizes. Throws Error: kUsage for options that make no sense
  // (which, and what is possible), kInput for files that cannot be accepted, kIo for those that cannot be
  // read, kUnsupported for a card that is not there and for memory that does not suffice, with the bytes.
  static Engine load(const ModelSource& source, const EngineOptions& options = {});
  ~Engine();
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;

  // Takes in a request and gives its id, which is not used again. Throws kInput for a prompt that cannot be
  // run (empty, ids outside the vocabulary, text that is not UTF-8, longer than max_model_len or all pages
  // allow) and kUsage for values out of range; nothing has changed then and other requests go on.
  std::int64_t submit(const GenerationRequest& request);
  // Ends a request: nothing more comes of it, events that nobody has taken included, and its pages are free
  // (on a card: when the step under way is done). False when it has ended already or never was.
  bool cancel(std::int64_t request);

  // The next event; runs steps until there is one. Nothing: every request has ended and all is told.
  std::optional<Event> next();
  // The next event if there is one already; runs nothing.
  std::optional<Event> poll();
  // Runs one step, if there is anything to do. For who wants to submit and cancel between steps. Throws
  // kInternal with what a card reports; the engine is of no use then.
  bool step();

  EngineMetrics metrics() const;
  std::int64_t vocab() const;          // token ids are below
  std::int64_t max_model_len() const;  // tokens of prompt and output
  bool has_tokenizer() const;

  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace slidesparse
