#include "convert/random_model.h"

#include <fmt/ranges.h>

#include <memory>
#include <string>

#include "cli/commands.h"
#include "model/presets.h"

namespace slidesparse {

void add_random_model(CLI::App& app, const GlobalOptions& global) {
  struct Command {
    std::string name, directory;
    RandomModelOptions options;
  };
  auto options = std::make_shared<Command>();
  CLI::App* command = app.add_subcommand(
      "random-model", "Writes a BF16 Hugging Face directory of a known shape with random weights");
  command->add_option("NAME", options->name, fmt::format("One of {}", fmt::join(preset_names(), ", ")))
      ->required();
  command->add_option("DIR", options->directory, "Directory to write")->required();
  command->add_option("--seed", options->options.seed, "Seed: the same seed gives the same bytes")
      ->capture_default_str();
  command->add_option("--layers", options->options.layers, "Only the first N layers");
  command->add_flag("--force", options->options.force, "Replace DIR");
  command->footer("Example: slidesparse random-model llama3.2-1b llama-random --seed 1");
  command->callback([options, &global] {
    options->options.target = options->directory;
    options->options.quiet = global.quiet;
    random_model(options->name, options->options);
  });
}

}  // namespace slidesparse
