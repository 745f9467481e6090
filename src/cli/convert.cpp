#include "convert/convert.h"

#include <fmt/core.h>

#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/dtype_names.h"
#include "core/text.h"

namespace slidesparse {
namespace {

struct ConvertCommand {
  std::string source, target, pattern, dtype;
  std::string method = "magnitude";
  std::string head = "bf16";
  ConvertOptions options;
};

void run_convert(ConvertCommand& command, bool quiet) {
  ConvertOptions& options = command.options;
  options.source = command.source;
  options.target = command.target;
  options.pattern = parse_pattern_option(command.pattern);
  options.dtype = parse_dtype_option(command.dtype);
  options.head = parse_head_option(command.head);
  options.method = parse_prune_method(command.method);
  options.quiet = quiet;
  const ConvertReport report = convert_model(options);
  if (quiet) return;
  fmt::print("{}", report_to_text(report));
  const double rate = report.seconds > 0 ? static_cast<double>(report.source_bytes) / report.seconds : 0;
  fmt::print("{}: {} of tensors from {} ({:.3f}), {:.1f} s, {}/s of input\n", command.target,
             format_bytes(static_cast<double>(report.target_bytes)),
             format_bytes(static_cast<double>(report.source_bytes)),
             static_cast<double>(report.target_bytes) / static_cast<double>(report.source_bytes),
             report.seconds, format_bytes(rate));
}

}  // namespace

void add_convert(CLI::App& app, const GlobalOptions& global) {
  auto options = std::make_shared<ConvertCommand>();
  CLI::App* command =
      app.add_subcommand("convert", "Prunes, quantises and packs a Hugging Face model; resumable");
  command
      ->add_option("SRC", options->source,
                   "Hugging Face directory: BF16, FP16, FP32 or compressed-tensors W8A8")
      ->required();
  command->add_option("DST", options->target, "Directory to write; appears when it is complete")->required();
  command->add_option("--pattern", options->pattern, "kept:group, one of " + pattern_list())->required();
  command->add_option("--dtype", options->dtype, "int8, fp8 or bf16")->required();
  command
      ->add_option("--method", options->method, "magnitude, or none: only check that the pattern is obeyed")
      ->capture_default_str();
  command->add_option("--skip", options->options.skip,
                      "Glob of linears that stay dense (repeatable); q/k/v and gate/up go together");
  command->add_option("--head", options->head, "bf16, or int8: quantise the head (never pruned)")
      ->capture_default_str();
  command->add_flag("--force", options->options.force,
                    "Replace DST, or an unfinished conversion of another kind");
  command->footer(
      "Example: slidesparse convert Llama-3.2-1B llama-6of8 --pattern 6:8 --dtype fp8 --skip '*.down_proj'");
  command->callback([options, &global] { run_convert(*options, global.quiet); });
}

}  // namespace slidesparse
