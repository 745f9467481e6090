#include <fmt/core.h>
#include <fmt/ranges.h>

#include <charconv>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/bench_rows.h"
#include "cli/commands.h"
#include "cli/dtype_names.h"
#include "cli/output.h"
#include "core/fail.h"
#include "core/log.h"
#include "core/text.h"
#include "io/model_directory.h"
#include "io/packed_directory.h"
#include "model/presets.h"
#include "model/weights.h"

namespace slidesparse {
namespace {

struct BenchCommand {
  std::string directory, model, shape, json;
  std::string head = "bf16";
  std::vector<std::string> dtypes, patterns, backends;
  std::vector<std::int64_t> m;
  double min_seconds = 0.5;
  std::uint64_t seed = 1;
  BenchModelOptions timing;
};

void check_subject(const BenchCommand& command, bool gemm) {
  const int given =
      (command.directory.empty() ? 0 : 1) + (command.model.empty() ? 0 : 1) + (command.shape.empty() ? 0 : 1);
  if (given != 1)
    fail(ErrorKind::kUsage, "bench: give exactly one of DIR, --model NAME{}", gemm ? ", --shape N,K" : "");
  if (!command.directory.empty() && (!command.dtypes.empty() || !command.patterns.empty())) {
    fail(ErrorKind::kUsage,
         "bench {}: a directory has its own dtype and pattern; --dtype and --patterns go with --model",
         command.directory);
  }
  for (const std::int64_t m : command.m) {
    if (m < 1) fail(ErrorKind::kUsage, "--m {}: must be at least 1", m);
  }
}

GemmShape parse_shape(const std::string& text) {
  std::int64_t n = 0, k = 0;
  const char* end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, n);
  const bool comma = first.ec == std::errc() && first.ptr != end && *first.ptr == ',';
  const auto second = comma ? std::from_chars(first.ptr + 1, end, k) : first;
  if (!comma || second.ec != std::errc() || second.ptr != end || n < 1 || k < 1 || n > (1 << 24) ||
      k > (1 << 24)) {
    fail(ErrorKind::kUsage, "--shape {}: want N,K with both in [1, {}], for example 4608,3584",
         printable(text, 40), 1 << 24);
  }
  return {fmt::format("{}x{}", n, k), n, k};
}

ModelConfig preset(const std::string& name) {
  const auto config = preset_config(name);
  if (!config)
    fail(ErrorKind::kUsage, "--model {}: known are {}", printable(name, 40), fmt::join(preset_names(), ", "));
  return *config;
}

// The fused linears of the first layer: what every layer repeats.
std::vector<GemmShape> layer_shapes(const ModelConfig& config, const std::string& name) {
  std::vector<GemmShape> shapes;
  for (const FusedGroup& group : weight_table(config).groups) {
    if (group.layer != 0) continue;
    GemmShape shape{name + "/" + group.name.substr(group.name.rfind('.') + 1), 0, group.members.front().k};
    for (const LinearSpec& member : group.members) shape.n += member.n;
    shapes.push_back(shape);
  }
  return shapes;
}

std::vector<DType> dtypes_of(const BenchCommand& command) {
  std::vector<DType> dtypes;
  for (const std::string& text : command.dtypes) dtypes.push_back(parse_dtype_option(text));
  if (dtypes.empty()) dtypes.push_back(DType::kI8);
  return dtypes;
}

std::vector<Pattern> patterns_of(const BenchCommand& command) {
  auto patterns = parse_pattern_list(command.patterns);
  if (patterns.empty()) patterns = {Pattern(), Pattern::of_half_group(4)};
  return patterns;
}

void write_results(const BenchCommand& command, const std::string& name, const MachineLimits& limits,
                   nlohmann::ordered_json rows) {
  if (command.json.empty()) return;
  nlohmann::ordered_json json = describe_run(name);
  json["limits"] = limits_json(limits);
  json["rows"] = std::move(rows);
  write_json(command.json, json);
}

void print_limits(const MachineLimits& limits) {
  fmt::print("machine: reads {}/s, INT8 {:.0f} GOP/s, BF16 {:.0f} GFLOP/s with {} threads, {}\n",
             format_bytes(limits.read_bytes_per_second), 1e-9 * limits.int8_ops_per_second,
             1e-9 * limits.bf16_flops_per_second, limits.threads, isa_name(limits.isa));
}

void run_gemm(const BenchCommand& command, bool quiet) {
  check_subject(command, true);
  GemmBenchOptions options;
  options.seed = command.seed;
  options.min_seconds = command.min_seconds;
  if (!command.m.empty()) options.ms = command.m;
  options.dtypes = dtypes_of(command);
  options.patterns = patterns_of(command);
  if (!command.shape.empty()) {
    options.shapes = {parse_shape(command.shape)};
  } else if (!command.model.empty()) {
    options.shapes = layer_shapes(preset(command.model), command.model);
  } else {
    const ModelDirectory directory(command.directory);
    const auto info = parse_packed_info(directory.config_text(), command.directory + "/config.json");
    if (!info)
      fail_input("{} is not a packed directory: convert it first, or use --model or --shape",
                 command.directory);
    options.shapes =
        layer_shapes(parse_model_config(directory.config_text(), command.directory + "/config.json"),
                     std::filesystem::path(command.directory).filename().string());
    options.dtypes = {info->dtype};
    options.patterns = {info->pattern};
  }
  options.every_kernel = command.backends == std::vector<std::string>{"all"};
  if (!options.every_kernel) options.backends = command.backends;
  for (const std::string& name : options.backends) backend_named(name);
  if (!quiet) options.on_progress = [](const std::string& next) { spdlog::info("{}", next); };
  const GemmBenchResult result = bench_gemm(options);
  if (command.json != "-") {
    print_limits(result.limits);
    fmt::print("{}", gemm_table(result));
  }
  write_results(command, "bench gemm", result.limits, gemm_rows_json(result));
  for (const GemmBenchRow& row : result.rows) {
    if (row.check != "ok")
      fail(ErrorKind::kInternal, "{} M={}: {} failed its check: {}", row.shape, row.m, row.kernel, row.check);
  }
}

void run_model(const BenchCommand& command, BenchPhase phase, bool quiet) {
  check_subject(command, false);
  BenchModelOptions options = command.timing;
  options.phase = phase;
  options.seed = command.seed;
  options.m = command.m;
  if (options.m.empty()) options.m = {phase == BenchPhase::kPrefill ? std::int64_t{512} : std::int64_t{1}};
  ModelOptions model_options;
  model_options.linear.backends = command.backends;
  const MachineLimits limits = measure_machine_limits();
  std::vector<BenchModelRow> rows;
  const auto measure = [&](const std::vector<BenchSubject>& subjects) {
    const auto measured = bench_model(subjects, options, [&](const BenchModelRow& row) {
      if (!quiet)
        spdlog::info("{} {} M={}: {:.2f} tokens/s", row.dtype, row.pattern, row.m, row.tokens_per_second);
    });
    rows.insert(rows.end(), measured.begin(), measured.end());
  };
  if (!command.directory.empty()) {
    const Model model = Model::load(command.directory, model_options);
    measure({{std::filesystem::path(command.directory).lexically_normal().filename().string(), &model}});
  } else {
    const ModelConfig config = preset(command.model);
    const DType head = parse_head_option(command.head);
    const std::vector<Pattern> patterns = patterns_of(command);
    for (const DType dtype : dtypes_of(command)) {
      // All patterns of one dtype are held at once, because they are timed in turn.
      std::vector<Model> models;
      models.reserve(patterns.size());
      std::vector<BenchSubject> subjects;
      subjects.reserve(patterns.size());
      for (const Pattern pattern : patterns) {
        models.push_back(Model::random(config, dtype, pattern, head, command.seed, model_options));
      }
      for (const Model& model : models) subjects.push_back({command.model, &model});
      measure(subjects);
    }
  }
  if (command.json != "-") {
    print_limits(limits);
    fmt::print("{}", model_table(rows, limits));
  }
  write_results(command, phase == BenchPhase::kPrefill ? "bench prefill" : "bench decode", limits,
                model_rows_json(rows, limits));
}

void add_common(CLI::App* command, const std::shared_ptr<BenchCommand>& options) {
  command->add_option("DIR", options->directory, "Packed directory: its own dtype and pattern");
  command->add_option("--model", options->model,
                      fmt::format("Random weights of a known shape: {}", fmt::join(preset_names(), ", ")));
  command->add_option("--dtype", options->dtypes, "List of int8, fp8, bf16 (default int8)")->delimiter(',');
  command->add_option("--patterns", options->patterns, "List of patterns (default dense,6:8)")
      ->delimiter(',');
  command->add_option("--m", options->m, "List of M: tokens (gemm, prefill) or sequences (decode)")
      ->delimiter(',');
  command
      ->add_option("--backend", options->backends,
                   "List of backends, best first; gemm takes all: every kernel")
      ->delimiter(',');
  command->add_option("--seed", options->seed, "Seed of the random data")->capture_default_str();
  command->add_option("--json", options->json,
                      "Write the figures as JSON (docs/bench.md); - for standard output");
}

}  // namespace

void add_bench(CLI::App& app, const GlobalOptions& global) {
  CLI::App* bench =
      app.add_subcommand("bench", "Speed: one linear, prefill or decode, against this machine's limits");
  bench->require_subcommand(1);
  bench->footer(
      "Example: slidesparse bench gemm --shape 8192,2048 --dtype int8 --patterns dense,2:4,6:8 --m 1,512");

  auto gemm_options = std::make_shared<BenchCommand>();
  CLI::App* gemm = bench->add_subcommand("gemm", "One linear layer at a time, each output checked first");
  add_common(gemm, gemm_options);
  gemm->add_option("--shape", gemm_options->shape, "N,K: output and input channels of one's own");
  gemm->add_option("--min-seconds", gemm_options->min_seconds, "Time a row at least")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  gemm->footer(
      "Example: slidesparse bench gemm --model qwen2.5-7b --dtype int8,fp8 --patterns dense,6:8 --m "
      "1,64,512");
  gemm->callback([gemm_options, &global] { run_gemm(*gemm_options, global.quiet); });

  for (const BenchPhase phase : {BenchPhase::kPrefill, BenchPhase::kDecode}) {
    const bool prefill = phase == BenchPhase::kPrefill;
    auto options = std::make_shared<BenchCommand>();
    CLI::App* command =
        bench->add_subcommand(prefill ? "prefill" : "decode", prefill ? "Whole prompts, M tokens in a step"
                                                                      : "M sequences, one token each a step");
    add_common(command, options);
    command->add_option("--head", options->head, "With --model: bf16 or int8 head")->capture_default_str();
    command->add_option("--runs", options->timing.runs, "Timed runs of every model")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    if (!prefill) {
      command->add_option("--steps", options->timing.steps, "Steps of a timed run")
          ->check(CLI::PositiveNumber)
          ->capture_default_str();
      command->add_option("--prompt", options->timing.prompt, "Tokens of each prompt")
          ->check(CLI::PositiveNumber)
          ->capture_default_str();
    }
    command->footer(fmt::format(
        "Example: slidesparse bench {} --model llama3.2-1b --dtype int8 --patterns dense,6:8 --m {}",
        prefill ? "prefill" : "decode", prefill ? "512" : "1,8"));
    command->callback([options, phase, &global] { run_model(*options, phase, global.quiet); });
  }
}

}  // namespace slidesparse
