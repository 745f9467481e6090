#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/dtype_names.h"
#include "cli/linear_options.h"
#include "core/fail.h"
#include "core/text.h"
#include "engine/engine_sizes.h"
#include "engine/generate.h"
#include "engine/make_engine.h"
#include "engine/sampler.h"
#include "io/tokenizer/tokenizer.h"
#include "model/model.h"

namespace slidesparse {
namespace {

struct GenerateCommand {
  std::string directory;
  GenerationRequest request;
  std::int64_t max_model_len = 0;
  std::string kv_dtype = "bf16";
  bool deterministic = false;
  LinearCommand linear;
};

void emit(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

std::string describe(const Tokenizer& tokenizer, std::int32_t id, float logprob) {
  return fmt::format("{} '{}' {:.4f}", id, printable(tokenizer.token_bytes(id), 40), logprob);
}

// "0: 1234 ' Paris' -0.1234; 1234 ' Paris' -0.1234, ..."
std::string logprob_line(const Tokenizer& tokenizer, const Event& event) {
  std::string line = fmt::format("{}: {}", event.index, describe(tokenizer, event.token, event.logprob));
  for (const TokenLogprob& top : event.top) {
    line += &top == event.top.data() ? "; " : ", ";
    line += describe(tokenizer, top.id, top.logprob);
  }
  return line + "\n";
}

void run_generate(const GenerateCommand& command, bool quiet) {
  GenerationRequest request = command.request;
  check_sampling_options(request.sampling);
  if (request.text.empty()) fail(ErrorKind::kUsage, "the prompt is empty: give some text to continue");
  EngineParts parts;
  parts.tokenizer = Tokenizer::from_file(std::filesystem::path(command.directory) / "tokenizer.json");
  const auto prompt_length =
      static_cast<std::int64_t>(parts.tokenizer->encode(request.text, request.add_special_tokens).size());
  const std::vector<std::int64_t> ms{std::clamp<std::int64_t>(prompt_length, 1, kPrefillChunk), 1};
  ModelOptions how = model_options(command.linear, ms);
  const auto options_for = [&](const ModelConfig& config) {
    EngineOptions options =
        one_request_options(config, prompt_length, request.max_tokens, command.max_model_len);
    options.deterministic = command.deterministic;
    options.kv_cache_dtype = parse_kv_dtype_option(command.kv_dtype);
    return options;
  };
  how.check_memory = [&](const ModelConfig& config, const auto& model) {
    check_engine_memory(config, model, options_for(config));
  };
  parts.model = std::make_shared<const Model>(Model::load(command.directory, how));
  const std::shared_ptr<const Model> model = parts.model;
  const Tokenizer tokenizer = *parts.tokenizer;
  parts.stop_tokens = stop_tokens_of(model->config(), command.directory);
  Engine engine = make_engine(std::move(parts), options_for(model->config()));
  if (!quiet) print_memory(*model);
  print_explanation(command.linear, *model, ms);

  emit(request.text);
  std::string logprobs;
  const GenerateResult result = generate(engine, request, [&](const Event& event) {
    emit(event.text);
    if (request.logprobs >= 0 && event.kind == EventKind::kToken) logprobs += logprob_line(tokenizer, event);
    return std::ferror(stdout) == 0;
  });
  emit("\n" + logprobs);
  if (!quiet) {
    fmt::print(
        stderr,
        "[{} prompt tokens, {:.1f} tokens/s prefill; {} new tokens, {:.1f} tokens/s decode; ended by {}]\n",
        result.prompt_tokens, result.prefill_tokens_per_second(), result.tokens.size(),
        result.decode_tokens_per_second(), stop_reason_name(result.reason));
  }
  if (result.reason == StopReason::kInterrupted)
    fail(ErrorKind::kInterrupted, "interrupted after {} tokens", result.tokens.size());
}

}  // namespace

void add_generate(CLI::App& app, const GlobalOptions& global) {
  auto options = std::make_shared<GenerateCommand>();
  CLI::App* command = app.add_subcommand("generate", "Continues a prompt; text streams as it comes");
  command->add_option("DIR", options->directory, "Model directory")->required();
  command->add_option("PROMPT", options->request.text, "Text to continue")->required();
  command->add_option("--max-tokens", options->request.max_tokens, "New tokens at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--temperature", options->request.sampling.temperature, "0: greedy")
      ->capture_default_str();
  command
      ->add_option("--top-p", options->request.sampling.top_p,
                   "Smallest set of tokens whose probabilities reach P")
      ->capture_default_str();
  command->add_option("--top-k", options->request.sampling.top_k, "Only the K likeliest tokens (0: all)")
      ->capture_default_str();
  command
      ->add_option("--min-p", options->request.sampling.min_p,
                   "Only tokens with P times the likeliest one's probability (0: all)")
      ->capture_default_str();
  command
      ->add_option("--repetition-penalty", options->request.sampling.repetition_penalty,
                   "Divides the logits of tokens that were there (negative ones: multiplies; 1: none)")
      ->capture_default_str();
  command->add_option("--seed", options->request.sampling.seed, "Seed of the sampling")
      ->capture_default_str();
  command->add_flag("--ignore-eos", options->request.ignore_eos, "Go on past the model's end tokens");
  command->add_flag("--add-special-tokens", options->request.add_special_tokens,
                    "Put the tokenizer's own special tokens around the prompt");
  command
      ->add_option("--logprobs", options->request.logprobs,
                   "After the text, a line a new token: its log probability and the N likeliest tokens")
      ->check(CLI::Range(0, kMostLogprobs));
  command
      ->add_option("--max-model-len", options->max_model_len,
                   "Tokens of prompt and output at most (default: what the model can do)")
      ->check(CLI::PositiveNumber);
  command->add_option("--kv-cache-dtype", options->kv_dtype, "Keys and values: bf16, or on a card fp8")
      ->capture_default_str();
  command->add_flag("--deterministic", options->deterministic,
                    "One sequence a step: tokens depend on nothing but the request");
  add_linear_options(*command, options->linear);
  command->footer("Example: slidesparse generate smollm2-6of8 \"The capital of France is\" --max-tokens 20");
  command->callback([options, &global] { run_generate(*options, global.quiet); });
}

}  // namespace slidesparse
