#include <fmt/core.h>

#include <filesystem>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "core/text.h"
#include "report/report.h"

namespace slidesparse {

void add_report(CLI::App& app, const GlobalOptions& global) {
  struct Command {
    std::string database, out = "report", compare, language = "en";
    bool any_version = false;
  };
  auto options = std::make_shared<Command>();
  CLI::App* command =
      app.add_subcommand("report", "What a sweep measured: Markdown, CSV, JSON and one HTML page");
  command->add_option("DB", options->database, "Database of `sweep`")->required();
  command->add_option("--out", options->out, "Directory for report.md, .csv, .json and .html")
      ->capture_default_str();
  command->add_option("--compare", options->compare,
                      "Another database: which cells changed beyond their spreads");
  command->add_option("--language", options->language, "Words of the report: en or zh")
      ->capture_default_str();
  command->add_flag(
      "--any-version", options->any_version,
      "Compare figures of other drivers, libraries and versions of this program on such a card");
  command->footer("Example: slidesparse report results.db --out report --language en");
  command->callback([options, &global] {
    ReportOptions report{options->database, options->out, {}, options->language, options->any_version};
    if (!options->compare.empty()) report.compare = options->compare;
    for (const WrittenFile& file : write_report(report)) {
      if (!global.quiet)
        fmt::print("{}: {}\n", file.path.string(), format_bytes(static_cast<double>(file.bytes)));
    }
  });
}

}  // namespace slidesparse
