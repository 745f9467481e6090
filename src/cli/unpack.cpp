#include "convert/unpack.h"

#include <memory>
#include <string>

#include "cli/commands.h"

namespace slidesparse {

void add_unpack(CLI::App& app, const GlobalOptions& global) {
  struct Command {
    std::string source, target;
    bool force = false;
  };
  auto options = std::make_shared<Command>();
  CLI::App* command =
      app.add_subcommand("unpack", "Writes a packed model as a standard W8A8 or BF16 directory, bit for bit");
  command->add_option("SRC", options->source, "Packed directory")->required();
  command
      ->add_option("DST", options->target,
                   "Directory to write; any engine that knows compressed-tensors loads it")
      ->required();
  command->add_flag("--force", options->force, "Replace DST");
  command->footer("Example: slidesparse unpack llama-6of8 llama-w8a8");
  command->callback([options, &global] {
    UnpackOptions unpack;
    unpack.source = options->source;
    unpack.target = options->target;
    unpack.force = options->force;
    unpack.quiet = global.quiet;
    unpack_model(unpack);
  });
}

}  // namespace slidesparse
