#include "convert/inspect.h"

#include <fmt/core.h>

#include <memory>
#include <string>

#include "cli/commands.h"

namespace slidesparse {

void add_inspect(CLI::App& app, const GlobalOptions& global) {
  struct Command {
    std::string directory;
    bool json = false;
  };
  auto options = std::make_shared<Command>();
  CLI::App* command = app.add_subcommand(
      "inspect", "Checks every byte of a model; per tensor shape, dtype, pattern found, zeros, bytes");
  command->add_option("DIR", options->directory, "Model directory: packed, W8A8 or plain")->required();
  command->add_flag("--json", options->json, "As JSON");
  command->footer("Example: slidesparse inspect llama-6of8");
  command->callback([options, &global] {
    const Inspection inspection = inspect_directory(options->directory, global.quiet);
    fmt::print("{}", options->json ? inspection_to_json(inspection) : inspection_to_text(inspection));
  });
}

}  // namespace slidesparse
