#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/linear_options.h"
#include "core/fail.h"
#include "engine/generate.h"
#include "io/tokenizer/tokenizer.h"
#include "model/model.h"

namespace slidesparse {
namespace {

struct GenerateCommand {
  std::string directory;
  std::string prompt;
  GenerateOptions options;
  bool ignore_end = false;
  bool add_special = false;
  LinearCommand linear;
};

void run_generate(const GenerateCommand& command, bool quiet) {
  check_sampling_options(command.options.sampling);
  if (command.prompt.empty()) fail(ErrorKind::kUsage, "the prompt is empty: give some text to continue");
  const Tokenizer tokenizer =
      Tokenizer::from_file(std::filesystem::path(command.directory) / "tokenizer.json");
  GenerateOptions options = command.options;
  const std::vector<std::int32_t> prompt = tokenizer.encode(command.prompt, command.add_special);
  const auto prompt_length = static_cast<std::int64_t>(prompt.size());
  const std::vector<std::int64_t> ms{std::clamp<std::int64_t>(prompt_length, 1, options.prefill_chunk), 1};
  const Model model = Model::load(command.directory, model_options(command.linear, ms));
  if (!command.ignore_end) options.stop_tokens = stop_tokens_of(model.config(), command.directory);
  StreamDecoder decoder(tokenizer, /*skip_special=*/true);
  const auto emit = [](const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  };
  if (!quiet) print_memory(model);
  print_explanation(command.linear, model, ms);
  emit(command.prompt);
  const GenerateResult result = generate(model, prompt, options, [&](std::int32_t token) {
    emit(decoder.push(token));
    return std::ferror(stdout) == 0;
  });
  emit(decoder.finish() + "\n");
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
  command->add_option("PROMPT", options->prompt, "Text to continue")->required();
  command->add_option("--max-tokens", options->options.max_tokens, "New tokens at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--temperature", options->options.sampling.temperature, "0: greedy")
      ->capture_default_str();
  command
      ->add_option("--top-p", options->options.sampling.top_p,
                   "Smallest set of tokens whose probabilities reach P")
      ->capture_default_str();
  command->add_option("--top-k", options->options.sampling.top_k, "Only the K likeliest tokens (0: all)")
      ->capture_default_str();
  command
      ->add_option("--min-p", options->options.sampling.min_p,
                   "Only tokens with P times the likeliest one's probability (0: all)")
      ->capture_default_str();
  command
      ->add_option("--repetition-penalty", options->options.sampling.repetition_penalty,
                   "Divides the logits of tokens that were there (negative ones: multiplies; 1: none)")
      ->capture_default_str();
  command->add_option("--seed", options->options.sampling.seed, "Seed of the sampling")
      ->capture_default_str();
  command->add_flag("--ignore-eos", options->ignore_end, "Go on past the model's end tokens");
  command->add_flag("--add-special-tokens", options->add_special,
                    "Put the tokenizer's own special tokens around the prompt");
  add_linear_options(*command, options->linear);
  command->footer("Example: slidesparse generate smollm2-6of8 \"The capital of France is\" --max-tokens 20");
  command->callback([options, &global] { run_generate(*options, global.quiet); });
}

}  // namespace slidesparse
