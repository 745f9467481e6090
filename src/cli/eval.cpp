#include <fmt/core.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/evaluation.h"
#include "cli/output.h"
#include "core/fail.h"
#include "core/text.h"
#include "engine/evaluate.h"
#include "io/text_file.h"

namespace slidesparse {
namespace {

struct EvalOptions {
  std::vector<std::string> directories;
  std::string text;
  std::string hellaswag;
  std::string json;
  std::int64_t max_tasks = 0;
  EvaluationWork work;
};

struct EvalRow {
  std::string directory;
  Evaluation found;
};

void print_table(const std::vector<EvalRow>& rows) {
  using Align = TextTable::Align;
  TextTable table({"model", "dtype", "pattern", "weights", "perplexity", "+-", "windows", "tokens", "acc",
                   "acc_norm", "+-", "tokens/s"},
                  {Align::kLeft, Align::kLeft, Align::kLeft});
  for (const EvalRow& row : rows) {
    const ModelSummary& summary = row.found.summary;
    const std::optional<PerplexityResult>& perplexity = row.found.perplexity;
    const std::optional<HellaSwagResult>& hellaswag = row.found.hellaswag;
    std::vector<std::string> cells{
        std::filesystem::path(row.directory).lexically_normal().string(), summary.dtype,
        describe_pattern(summary.pattern),
        format_bytes(static_cast<double>(summary.linear_bytes + summary.embedding_bytes + summary.head_bytes +
                                         summary.other_bytes))};
    if (perplexity) {
      cells.push_back(fmt::format("{:.4f}", perplexity->perplexity));
      cells.push_back(perplexity->windows > 1 ? fmt::format("{:.2f}", perplexity->perplexity_error) : "-");
      cells.push_back(fmt::format("{} x {}", perplexity->windows, perplexity->window));
      cells.push_back(fmt::format("{}", perplexity->windows * perplexity->window));
    } else {
      cells.insert(cells.end(), 4, "-");
    }
    if (hellaswag) {
      cells.push_back(fmt::format("{:.3f}", hellaswag->accuracy));
      cells.push_back(fmt::format("{:.3f}", hellaswag->accuracy_norm));
      cells.push_back(fmt::format("{:.3f}", hellaswag->accuracy_norm_error));
    } else {
      cells.insert(cells.end(), 3, "-");
    }
    cells.push_back(perplexity ? fmt::format("{:.1f}", perplexity->tokens_per_second) : "-");
    table.add_row(std::move(cells));
  }
  fmt::print("{}", table.to_string());
  fmt::print(
      "perplexity over non-overlapping windows, the first token of each not predicted; +- is one standard "
      "error\n");
}

nlohmann::ordered_json to_json(const EvalRow& row) {
  const Evaluation& found = row.found;
  nlohmann::ordered_json json{{"directory", row.directory},
                              {"dtype", found.summary.dtype},
                              {"pattern", found.summary.pattern},
                              {"linear_bytes", found.summary.linear_bytes},
                              {"embedding_bytes", found.summary.embedding_bytes},
                              {"head_bytes", found.summary.head_bytes},
                              {"other_bytes", found.summary.other_bytes}};
  if (found.perplexity) {
    const PerplexityResult& result = *found.perplexity;
    json["perplexity"] = {{"text_tokens", found.text_tokens},
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
  if (found.hellaswag) {
    const HellaSwagResult& result = *found.hellaswag;
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

void run_eval(EvalOptions& options, bool quiet) {
  if (options.text.empty() && options.hellaswag.empty()) {
    fail(ErrorKind::kUsage, "nothing to evaluate: give --text FILE, --hellaswag FILE or both");
  }
  if (!options.text.empty()) options.work.text = read_text_lines(options.text);
  if (!options.hellaswag.empty()) options.work.tasks = read_hellaswag(options.hellaswag, options.max_tasks);
  std::vector<EvalRow> rows;
  for (const std::string& directory : options.directories)
    rows.push_back({directory, evaluate_directory(directory, options.work, directory, quiet)});
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
  command->add_option("--window", options->work.perplexity.window, "Tokens a window")->capture_default_str();
  command
      ->add_option("--max-windows", options->work.perplexity.max_windows, "Only the first N windows (0: all)")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--hellaswag", options->hellaswag,
                      "HellaSwag: the official jsonl, or six lines a task");
  command->add_option("--max-tasks", options->max_tasks, "Only the first N tasks (0: all)")
      ->check(CLI::NonNegativeNumber);
  add_linear_options(*command, options->work.linear);
  command->add_option("--json", options->json, "Write the figures as JSON (- for standard output)");
  command->footer("Example: slidesparse eval llama-dense llama-6of8 --text wiki.test.raw --max-windows 10");
  command->callback([options, &global] { run_eval(*options, global.quiet); });
}

}  // namespace slidesparse
