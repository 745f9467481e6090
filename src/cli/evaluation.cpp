#include "cli/evaluation.h"

#include <filesystem>
#include <span>

#include "cli/output.h"
#include "engine/weight_plan.h"
#include "io/json.h"
#include "io/tokenizer/tokenizer.h"
#include "model/card_model.h"
#include "model/weight_reader.h"

namespace slidesparse {
namespace {

// Before anything is on the card: forms of the weights that leave room for what is to run, or one error.
void plan_memory_of(const std::string& directory, const EvaluationWork& work, const Tokenizer& tokenizer,
                    std::int64_t text_tokens, ModelOptions& how) {
  const std::filesystem::path file = std::filesystem::path(directory) / "config.json";
  const ModelConfig config = parse_model_config(read_text_file(file), file.string());
  std::vector<EvalSizes> sizes;
  if (work.text) sizes.push_back(perplexity_sizes(config, text_tokens, work.perplexity));
  if (!work.tasks.empty()) sizes.push_back(hellaswag_sizes(config, tokenizer, work.tasks, how.device));
  const auto reader = open_weights(directory, config, false);
  plan_evaluation(directory, config, *reader, how, sizes, card_budget());
}

}  // namespace

Evaluation evaluate_directory(const std::string& directory, const EvaluationWork& work,
                              const std::string& title, bool quiet) {
  const Tokenizer tokenizer = Tokenizer::from_file(std::filesystem::path(directory) / "tokenizer.json");
  ModelOptions how = model_options(work.linear, {work.perplexity.window});
  how.validate = true;
  const std::vector<std::int32_t> tokens =
      work.text ? tokenizer.encode(*work.text) : std::vector<std::int32_t>();
  const auto text_tokens = static_cast<std::int64_t>(tokens.size());
  if (how.device == DeviceKind::kCuda) plan_memory_of(directory, work, tokenizer, text_tokens, how);
  const Model model = Model::load(directory, how);
  if (!quiet) print_memory(model);
  print_explanation(work.linear, model, std::span(&work.perplexity.window, 1));
  Evaluation evaluation{model.summary(), text_tokens, std::nullopt, std::nullopt};
  if (work.text) {
    show_progress(title + ": windows", quiet, [&](const EvalProgress& on_window) {
      evaluation.perplexity = evaluate_perplexity(model, tokens, work.perplexity, on_window);
    });
  }
  if (!work.tasks.empty()) {
    show_progress(title + ": HellaSwag tasks", quiet, [&](const EvalProgress& on_task) {
      evaluation.hellaswag = evaluate_hellaswag(model, tokenizer, work.tasks, on_task);
    });
  }
  return evaluation;
}

}  // namespace slidesparse
