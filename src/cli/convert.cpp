#include "convert/convert.h"

#include <fmt/core.h>

#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/dtype_names.h"
#include "cli/pattern_option.h"
#include "core/fail.h"
#include "core/text.h"

namespace slidesparse {
namespace {

struct ConvertCommand {
  std::string source, target, dtype, statistics;
  std::vector<std::string> patterns;
  std::string layout = "slide";
  std::string method = "magnitude";
  std::string rounding;
  std::string head = "bf16";
  CLI::Option* speeds = nullptr;
  CLI::Option* sensitivities = nullptr;
  ConvertOptions options;
};

void run_convert(ConvertCommand& command, bool quiet) {
  ConvertOptions& options = command.options;
  options.source = command.source;
  options.target = command.target;
  options.layout = parse_layout_option(command.layout);
  if (options.target_speed) {
    if (!command.patterns.empty()) {
      fail(ErrorKind::kUsage,
           "--target-speed chooses the patterns itself: leave --pattern out; --skip keeps linears dense");
    }
  } else {
    for (const CLI::Option* option : {command.speeds, command.sensitivities}) {
      if (option->count() > 0)
        fail(ErrorKind::kUsage, "{}: belongs to --target-speed, which is missing", option->get_name());
    }
    if (command.patterns.empty()) {
      fail(ErrorKind::kUsage,
           "--pattern is required, or --target-speed, which chooses the patterns of all layers");
    }
    parse_patterns(command.patterns, options);
  }
  options.statistics = command.statistics;
  options.dtype = parse_dtype_option(command.dtype);
  options.gptq = parse_rounding_option(command.rounding);
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
  command
      ->add_option("--pattern", options->patterns,
                   "kept:group, one of " + pattern_list() +
                       ", with /slide or /split behind it if the layout differs from --layout; exceptions as "
                       "GLOB=PATTERN, comma-separated")
      ->delimiter(',');
  command->add_option(
      "--target-speed", options->options.target_speed,
      "Instead of --pattern: a pattern for each fused group, of --layout or dense, so that all linears "
      "together are predicted to run so many times as fast as dense, at the least expected loss; with "
      "sparsegpt or wanda");
  options->speeds = command->add_option(
      "--speeds", options->options.speeds,
      "--target-speed: JSON with speeds over dense by layout and pattern, {\"split\": {\"6:8\": 1.135}} "
      "(default: Hopper's, docs/pruning.md)");
  options->sensitivities = command->add_option(
      "--sensitivities", options->options.sensitivities,
      "--target-speed: JSON of what pruning each group alone costs, for several targets: read when it is "
      "there, else written");
  command
      ->add_option(
          "--layout", options->layout,
          "slide: the pattern in every group of channels; split: some channels 2:4, the others dense")
      ->capture_default_str();
  command->add_option("--dtype", options->dtype, "int8, fp8 or bf16")->required();
  command
      ->add_option(
          "--method", options->method,
          "sparsegpt (best, changes the kept weights too), wanda, magnitude (no data needed), or none: only "
          "check that the pattern is obeyed")
      ->capture_default_str();
  command->add_option("--calibration", options->options.calibration.text,
                      "Text that sparsegpt and wanda run the model on (UTF-8; - for standard input)");
  command->add_option("--samples", options->options.calibration.samples, "Windows of the calibration text")
      ->capture_default_str();
  command->add_option("--sample-length", options->options.calibration.sample_length, "Tokens of a window")
      ->capture_default_str();
  command->add_option("--seed", options->options.calibration.seed, "Which windows")->capture_default_str();
  command->add_option(
      "--statistics", options->statistics,
      "Directory of what was learnt about the inputs: read when it is there (then no --calibration is "
      "needed), else written");
  command
      ->add_option("--dampening", options->options.dampening,
                   "sparsegpt: share of the mean second moment added")
      ->capture_default_str();
  command
      ->add_option("--refits", options->options.refits,
                   "sparsegpt: steps that adjust the kept weights once more after all masks are settled")
      ->capture_default_str();
  command->add_option("--rounding", options->rounding,
                      "fp8: nearest, or gptq: one channel after the other, the later ones making up for what "
                      "the earlier lose (default: gptq with sparsegpt, which is what it needs)");
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
