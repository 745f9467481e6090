// Streams three continuations at once, cancels one of them and prints what the engine did.
//
//   stream DIR               a model directory with its tokenizer
//   stream PRESET [LAYERS]   random weights of a known shape ("smollm2-135m"); prompts are token ids
#include <slidesparse/engine/engine.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <optional>

namespace {

using namespace slidesparse;

int run(int argc, char** argv) {
  const bool directory = std::filesystem::is_directory(argv[1]);
  ModelSource source;
  (directory ? source.directory : source.preset) = argv[1];
  if (!directory && argc > 2) source.layers = std::strtol(argv[2], nullptr, 10);
  EngineOptions options;
  options.max_num_seqs = 8;
  options.max_model_len = 512;
  Engine engine = Engine::load(source, options);

  // Three ways of going on: greedy, drawn, drawn with the likeliest alternatives told.
  GenerationRequest request;
  request.max_tokens = 16;
  if (engine.has_tokenizer()) {
    request.text = "The capital of France is";
  } else {
    request.tokens = {1, 450, 7483, 310, 3444, 338};
  }
  engine.submit(request);
  request.sampling = {.temperature = 0.8, .top_k = 50, .top_p = 0.95, .seed = 7};
  const std::int64_t cancelled = engine.submit(request);
  request.logprobs = 2;
  engine.submit(request);

  while (const std::optional<Event> event = engine.next()) {
    switch (event->kind) {
      case EventKind::kToken:
        std::printf("[%lld] %d '%s'", static_cast<long long>(event->request), event->token,
                    event->text.c_str());
        for (const TokenLogprob& top : event->top) std::printf("  %d: %.3f", top.id, top.logprob);
        std::printf("\n");
        if (event->request == cancelled && event->index == 4) engine.cancel(cancelled);
        break;
      case EventKind::kFinished:
        std::printf("[%lld] %lld tokens, ended by %s\n", static_cast<long long>(event->request),
                    static_cast<long long>(event->output_tokens), stop_reason_name(event->reason).data());
        break;
      case EventKind::kFailed:
        std::printf("[%lld] %s\n", static_cast<long long>(event->request), event->error.c_str());
        break;
    }
  }
  const EngineMetrics metrics = engine.metrics();
  std::printf("%lld finished, %lld cancelled; %lld new tokens, %.1f tokens/s; step %.2f ms (p99 %.2f ms); ",
              static_cast<long long>(metrics.requests_finished),
              static_cast<long long>(metrics.requests_cancelled),
              static_cast<long long>(metrics.generation_tokens), metrics.tokens_per_second(),
              1e3 * metrics.step_seconds_p50, 1e3 * metrics.step_seconds_p99);
  std::printf("%lld of %lld pages in use\n", static_cast<long long>(metrics.kv_pages_used),
              static_cast<long long>(metrics.kv_pages_total));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: %s DIR | PRESET [LAYERS]\n", argv[0]), 2;
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
