#include <fmt/core.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/linear_options.h"
#include "cli/output.h"
#include "core/fail.h"
#include "core/progress.h"
#include "core/text.h"
#include "engine/evaluate.h"
#include "engine/weight_plan.h"
#include "io/json.h"
#include "io/text_file.h"
#include "io/tokenizer/tokenizer.h"
#include "model/card_model.h"
#include "model/model.h"
#include "model/weight_reader.h"

namespace slidesparse {
namespace {

struct EvalOptions {
  std::vector<std::string> directories;
  std::string text;
  std::string hellaswag;
  std::string json;
  std::int64_t max_tasks = 0;
  PerplexityOptions perplexity;
  LinearCommand linear;
};

struct EvalRow {
  std::string directory;
  ModelSummary summary;
  std::int64_t text_tokens = 0;
  std::optional<PerplexityResult> perplexity;
  std::optional<HellaSwagResult> hellaswag;
};

// Before anything is on the card: forms of the weights that leave room for what is to run, or one error.
void plan_memory_of(const std::string& directory, const EvalOptions& options, const Tokenizer& tokenizer,
                    std::int64_t text_tokens, const std::vector<HellaSwagTask>& tasks, ModelOptions& how) {
  const std::filesystem::path file = std::filesystem::path(directory) / "config.json";
  const ModelConfig config = parse_model_config(read_text_file(file), file.string());
  std::vector<EvalSizes> sizes;
  if (!options.text.empty()) sizes.push_back(perplexity_sizes(config, text_tokens, options.perplexity));
  if (!tasks.empty()) sizes.push_back(hellaswag_sizes(config, tokenizer, tasks, how.device));
  const auto reader = open_weights(directory, config, false);
  plan_evaluation(directory, config, *reader, how, sizes, card_budget());
}

EvalRow evaluate(const std::string& directory, const EvalOptions& options, const std::string& text,
                 const std::vector<HellaSwagTask>& tasks, bool quiet) {
  const Tokenizer tokenizer = Tokenizer::from_file(std::filesystem::path(directory) / "tokenizer.json");
  ModelOptions model_options = slidesparse::model_options(options.linear, {options.perplexity.window});
  model_options.validate = true;
  const std::vector<std::int32_t> tokens =
      options.text.empty() ? std::vector<std::int32_t>() : tokenizer.encode(text);
  if (model_options.device == DeviceKind::kCuda)
    plan_memory_of(directory, options, tokenizer, static_cast<std::int64_t>(tokens.size()), tasks,
                   model_options);
  const Model model = Model::load(directory, model_options);
  if (!quiet) print_memory(model);
  print_explanation(options.linear, model, std::span(&options.perplexity.window, 1));
  EvalRow row{directory, model.summary(), 0, std::nullopt, std::nullopt};
  const auto run = [&](const char* title, const auto& body) {
    std::optional<Progress> progress;
    std::int64_t before = 0;
    body([&](std::int64_t done, std::int64_t total) {
      if (!progress)
        progress.emplace(fmt::format("{}: {}", directory, title), total, Progress::Unit::kItems, quiet);
      progress->advance(done - before);
      before = done;
    });
  };
  if (!options.text.empty()) {
    row.text_tokens = static_cast<std::int64_t>(tokens.size());
    run("windows", [&](const EvalProgress& on_window) {
      row.perplexity = evaluate_perplexity(model, tokens, options.perplexity, on_window);
    });
  }
  if (!tasks.empty()) {
    run("HellaSwag tasks", [&](const EvalProgress& on_task) {
      row.hellaswag = evaluate_hellaswag(model, tokenizer, tasks, on_task);
    });
  }
  return row;
}

void print_table(const std::vector<EvalRow>& rows) {
  using Align = TextTable::Align;
  TextTable table({"model", "dtype", "pattern", "weights", "perplexity", "+-", "windows", "tokens", "acc",
                   "acc_norm", "+-", "tokens/s"},
                  {Align::kLeft, Align::kLeft, Align::kLeft});
  for (const EvalRow& row : rows) {
    const ModelSummary& summary = row.summary;
    std::vector<std::string> cells{
        std::filesystem::path(row.directory).lexically_normal().string(), summary.dtype,
        describe_pattern(summary.pattern),
        format_bytes(static_cast<double>(summary.linear_bytes + summary.embedding_bytes + summary.head_bytes +
                                         summary.other_bytes))};
    if (row.perplexity) {
      cells.push_back(fmt::format("{:.4f}", row.perplexity->perplexity));
      cells.push_back(row.perplexity->windows > 1 ? fmt::format("{:.2f}", row.perplexity->perplexity_error)
                                                  : "-");
      cells.push_back(fmt::format("{} x {}", row.perplexity->windows, row.perplexity->window));
      cells.push_back(fmt::format("{}", row.perplexity->windows * row.perplexity->window));
    } else {
      cells.insert(cells.end(), 4, "-");
    }
    if (row.hellaswag) {
      cells.push_back(fmt::format("{:.3f}", row.hellaswag->accuracy));
      cells.push_back(fmt::format("{:.3f}", row.hellaswag->accuracy_norm));
      cells.push_back(fmt::format("{:.3f}", row.hellaswag->accuracy_norm_error));
    } else {
      cells.insert(cells.end(), 3, "-");
    }
    cells.push_back(row.perplexity ? fmt::format("{:.1f}", row.perplexity->tokens_per_second) : "-");
    table.add_row(std::move(cells));
  }
  fmt::print("{}", table.to_string());
  fmt::print(
      "perplexity over non-overlapping windows, the first token of each not predicted; +- is one standard "
      "error\n");
}

nlohmann::ordered_json to_json(const EvalRow& row) {
  nlohmann::ordered_json json{{"directory", row.directory},
                              {"dtype", row.summary.dtype},
                              {"pattern", row.summary.pattern},
                              {"linear_bytes", row.summary.linear_bytes},
                              {"embedding_bytes", row.summary.embedding_bytes},
                              {"head_bytes", row.summary.head_bytes},
                              {"other_bytes", row.summary.other_bytes}};
  if (row.perplexity) {
    const PerplexityResult& result = *row.perplexity;
    json["perplexity"] = {{"text_tokens", row.text_tokens},
                          {"window", result.window},
                          {"windows", result.windows},
                          {"predictions", result.predictions},
                          {"mean_nll", result.mean_nll},
                          {"mean_nll_error", result.mean_nll_error},
                          {"perplexity", result.perplexity},
                          {"perplexity_error", result.perplexity_error},
                          {"window_nll", result.window_nll},
                          {"seconds", result.seconds},
                          {"tokens_per_second", result.tokens_per_second}};
  }
  if (row.hellaswag) {
    const HellaSwagResult& result = *row.hellaswag;
    json["hellaswag"] = {{"tasks", result.tasks},
                         {"acc", result.accuracy},
                         {"acc_error", result.accuracy_error},
                         {"acc_norm", result.accuracy_norm},
                         {"acc_norm_error", result.accuracy_norm_error},
                         {"tokens", result.tokens},
                         {"seconds", result.seconds}};
    auto& choices = json["hellaswag"]["choices"] = nlohmann::ordered_json::array();
    for (const HellaSwagChoice& choice : result.choices) {
      choices.push_back({{"label", choice.label},
                         {"chosen", choice.chosen},
                         {"chosen_norm", choice.chosen_norm},
                         {"log_likelihoods", choice.log_likelihoods}});
    }
  }
  return json;
}

void run_eval(const EvalOptions& options, bool quiet) {
  if (options.text.empty() && options.hellaswag.empty()) {
    fail(ErrorKind::kUsage, "nothing to evaluate: give --text FILE, --hellaswag FILE or both");
  }
  const std::string text = options.text.empty() ? std::string() : read_text_lines(options.text);
  const auto tasks = options.hellaswag.empty() ? std::vector<HellaSwagTask>()
                                               : read_hellaswag(options.hellaswag, options.max_tasks);
  std::vector<EvalRow> rows;
  for (const std::string& directory : options.directories)
    rows.push_back(evaluate(directory, options, text, tasks, quiet));
  if (options.json != "-") print_table(rows);
  if (!options.json.empty()) {
    nlohmann::ordered_json json = describe_run("eval");
    json["rows"] = nlohmann::ordered_json::array();
    for (const EvalRow& row : rows) json["rows"].push_back(to_json(row));
    write_json(options.json, json);
  }
}

}  // namespace

void add_eval(CLI::App& app, const GlobalOptions& global) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App* command =
      app.add_subcommand("eval", "Quality: perplexity of a text and HellaSwag, several models side by side");
  command->add_option("DIR", options->directories, "Model directories: packed, W8A8 or plain")->required();
  command->add_option("--text", options->text,
                      "Text whose perplexity is measured (UTF-8, CRLF read as LF; - for standard input)");
  command->add_option("--window", options->perplexity.window, "Tokens a window")->capture_default_str();
  command->add_option("--max-windows", options->perplexity.max_windows, "Only the first N windows (0: all)")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--hellaswag", options->hellaswag,
                      "HellaSwag: the official jsonl, or six lines a task");
  command->add_option("--max-tasks", options->max_tasks, "Only the first N tasks (0: all)")
      ->check(CLI::NonNegativeNumber);
  add_linear_options(*command, options->linear);
  command->add_option("--json", options->json, "Write the figures as JSON (- for standard output)");
  command->footer("Example: slidesparse eval llama-dense llama-6of8 --text wiki.test.raw --max-windows 10");
  command->callback([options, &global] { run_eval(*options, global.quiet); });
}

}  // namespace slidesparse
