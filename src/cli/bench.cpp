#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/bench_rows.h"
#include "cli/commands.h"
#include "cli/dtype_names.h"
#include "cli/gemm_subject.h"
#include "cli/linear_options.h"
#include "cli/output.h"
#include "cli/pattern_option.h"
#include "core/cuda/status.h"
#include "core/fail.h"
#include "core/log.h"
#include "core/text.h"
#include "engine/bench_plan.h"
#include "engine/layer_shapes.h"
#include "io/json.h"
#include "model/card_model.h"
#include "model/placement.h"
#include "model/presets.h"

namespace slidesparse {
namespace {

struct BenchCommand {
  std::string directory, model, shape, json, device, cache;
  std::string kv_dtype = "bf16";
  std::string weights = "fastest";
  std::string layout = "slide";
  std::vector<std::string> dtypes, patterns, backends;
  std::vector<std::int64_t> m;
  double min_seconds = 0.5;
  LinearCommand linear;  // prefill and decode
  bool explain = false;
  bool burst = false;
  bool product = false;
  std::int64_t layer = 0;
  std::uint64_t seed = 1;
  BenchModelOptions timing;
};

void check_m(const BenchCommand& command) {
  for (const std::int64_t m : command.m) {
    if (m < 1) fail(ErrorKind::kUsage, "--m {}: must be at least 1", m);
  }
}

void check_subject(const BenchCommand& command) {
  if (command.directory.empty() == command.model.empty())
    fail(ErrorKind::kUsage, "bench: give exactly one of DIR, --model NAME");
  if (!command.directory.empty() && (!command.dtypes.empty() || !command.patterns.empty())) {
    fail(ErrorKind::kUsage,
         "bench {}: a directory has its own dtype and pattern; --dtype and --patterns go with --model",
         command.directory);
  }
  check_m(command);
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
                   nlohmann::ordered_json rows, const std::vector<std::string>& warnings = {},
                   nlohmann::ordered_json weights = {}) {
  if (command.json.empty()) return;
  nlohmann::ordered_json json = describe_run(name);
  json["limits"] = limits_json(limits);
  json["rows"] = std::move(rows);
  if (!weights.empty()) json["weights"] = std::move(weights);
  if (!warnings.empty()) json["warnings"] = warnings;
  write_json(command.json, json);
}

void print_card_limits(const MachineLimits& limits) {
  const CudaDeviceInfo& card = cuda_status().devices.front();
  fmt::print(
      "card: {}, copies {}/s (read and written), FP8 {:.0f} TFLOP/s, INT8 {:.0f} TOP/s, BF16 {:.0f} TFLOP/s "
      "as stated\n",
      card.name, format_bytes(limits.read_bytes_per_second), 1e-12 * limits.fp8_flops_per_second,
      1e-12 * limits.int8_ops_per_second, 1e-12 * limits.bf16_flops_per_second);
}

void print_limits(const MachineLimits& limits) {
  fmt::print("machine: reads {}/s, INT8 {:.0f} GOP/s, BF16 {:.0f} GFLOP/s with {} threads, {}\n",
             format_bytes(limits.read_bytes_per_second), 1e-9 * limits.int8_ops_per_second,
             1e-9 * limits.bf16_flops_per_second, limits.threads, isa_name(limits.isa));
}

GemmBenchOptions gemm_options(const BenchCommand& command, const GemmSubject& subject) {
  check_m(command);
  GemmBenchOptions options;
  options.shapes = subject.shapes;
  options.dtypes = subject.dtypes;
  options.patterns = subject.patterns;
  options.seed = command.seed;
  options.min_seconds = command.min_seconds;
  options.device = parse_device(command.device);
  if (!command.m.empty()) options.ms = command.m;
  options.weights = parse_weight_policy(command.weights);
  options.part = command.product ? TimedPart::kProduct : TimedPart::kWhole;
  options.rest_seconds = command.burst ? kBurstRestSeconds : 0;
  if (options.device == DeviceKind::kCuda) options.probe = probe_kernels;
  options.every_kernel = command.backends == std::vector<std::string>{"all"};
  if (!options.every_kernel) options.backends = command.backends;
  for (const std::string& name : options.backends) backend_named(name);
  return options;
}

void run_gemm(const BenchCommand& command, bool quiet) {
  const GemmSubject subject =
      gemm_subject("bench", {command.directory, command.model, command.shape, command.dtypes,
                             command.patterns, command.layer, command.layout});
  GemmBenchOptions options = gemm_options(command, subject);
  std::optional<TuningCache> cache;
  if (options.device == DeviceKind::kCuda) {
    cache = TuningCache::load(command.cache.empty() ? default_tuning_cache() : command.cache,
                              tuning_machine(options.device));
    options.cache = &*cache;
  }
  if (!quiet) options.on_progress = [](const std::string& next) { spdlog::info("{}", next); };
  const GemmBenchResult result = bench_gemm(options);
  for (const std::string& warning : result.warnings) spdlog::warn("{}", warning);
  if (command.json != "-") {
    if (command.device.empty() && !cuda_status().available)
      fmt::print("no card ({}): the CPU is measured\n", cuda_status().reason);
    if (options.device == DeviceKind::kCuda) {
      print_card_limits(result.limits);
    } else {
      print_limits(result.limits);
    }
    fmt::print("{}", gemm_table(result));
    if (!result.weights.empty()) {
      fmt::print("\nweights kept ({}):\n{}", command.weights, weights_table(result, subject.layers));
    }
    if (command.explain) fmt::print("{}", gemm_explanation(result));
  }
  write_results(command, "bench gemm", result.limits, gemm_rows_json(result), result.warnings,
                {{"policy", command.weights}, {"kept", weights_json(result)}});
  for (const GemmBenchRow& row : result.rows) {
    if (row.check != "ok")
      fail(ErrorKind::kInternal, "{} M={}: {} failed its check: {}", row.shape, row.m, row.kernel, row.check);
  }
}

// The models of a command, those together that are compared.
std::vector<std::vector<PlannedModel>> planned_models(const BenchCommand& command,
                                                      const ModelOptions& options,
                                                      const BenchModelOptions& bench) {
  const MemoryBudget budget = options.device == DeviceKind::kCuda ? card_budget() : MemoryBudget();
  if (!command.directory.empty()) {
    const std::filesystem::path directory = command.directory;
    const std::filesystem::path file = directory / "config.json";
    const ModelConfig config = parse_model_config(read_text_file(file), file.string());
    const auto reader = open_weights(directory, config, false);
    PlannedModel model = plan_bench_model(directory.lexically_normal().filename().string(), config, *reader,
                                          options, bench, budget);
    model.load = [directory](const ModelOptions& how) { return Model::load(directory, how); };
    return {{model}};
  }
  const ModelConfig config = known_model(command.model);
  const DType head = options.head.value_or(DType::kBF16);
  const RandomLayers layers = layers_for_speed(options.device);  // of the reference, too
  const Layout layout =
      parse_layout_option(command.layout) == PackedLayout::kSplit ? Layout::kSplit : Layout::kPacked;
  std::vector<std::vector<PlannedModel>> all;
  for (const DType dtype : dtypes_of(command)) {
    std::vector<PlannedModel>& models = all.emplace_back();
    for (const Pattern pattern : patterns_of(command)) {
      const auto reader = random_weights(config, dtype, pattern, head, command.seed, layout);
      models.push_back(plan_bench_model(command.model, config, *reader, options, bench, budget));
      models.back().load = [=, seed = command.seed](const ModelOptions& how) {
        return Model::random(config, dtype, pattern, head, seed, how, layout, layers);
      };
    }
  }
  return all;
}

void run_model(const BenchCommand& command, BenchPhase phase, bool quiet) {
  check_subject(command);
  BenchModelOptions options = command.timing;
  options.phase = phase;
  options.seed = command.seed;
  options.kv_dtype = parse_kv_dtype_option(command.kv_dtype);
  options.m = command.m;
  if (options.m.empty()) options.m = {phase == BenchPhase::kPrefill ? std::int64_t{512} : std::int64_t{1}};
  const ModelOptions model_options = slidesparse::model_options(command.linear, options.m);
  const bool card = model_options.device == DeviceKind::kCuda;
  const MachineLimits limits = measure_limits(model_options.device);
  std::vector<BenchModelRow> rows;
  const auto measure = [&](std::span<const PlannedModel> planned) {
    std::vector<Model> models;
    models.reserve(planned.size());
    std::vector<BenchSubject> subjects;
    // Before anything else is loaded, because there may be no room for both. Random weights on the CPU are
    // not made twice: there the model is its own reference, in other steps.
    const bool apart = card || !command.directory.empty();
    std::vector<std::shared_ptr<const GreedyReference>> references;
    for (const PlannedModel& model : planned) {
      if (!apart) break;
      const double start = now_seconds();
      references.push_back(std::make_shared<const GreedyReference>(
          model.load(reference_options(model.options)), options.seed, options.kv_dtype));
      if (!quiet)
        spdlog::info("{}: reference of greedy outputs in {:.1f} s", model.name, now_seconds() - start);
    }
    for (const PlannedModel& model : planned) {
      const double start = now_seconds();
      models.push_back(model.load(model.options));
      if (!quiet) spdlog::info("{}: loaded in {:.1f} s", model.name, now_seconds() - start);
      subjects.push_back({model.name, &models.back()});
      subjects.back().reference = apart
                                      ? references[subjects.size() - 1]
                                      : std::make_shared<const GreedyReference>(models.back(), options.seed);
      if (model.fits.empty()) continue;
      subjects.back().fit = [&model, &options](std::int64_t m) {
        return model.fits[static_cast<std::size_t>(std::ranges::find(options.m, m) - options.m.begin())];
      };
    }
    if (!quiet) print_memory(models.front());
    for (const BenchSubject& subject : subjects) print_explanation(command.linear, *subject.model, options.m);
    const auto measured = bench_model(subjects, options, [&](const BenchModelRow& row) {
      if (quiet) return;
      const std::string found =
          row.has_figures() ? fmt::format("{:.2f} tokens/s", row.tokens_per_second) : row.check;
      spdlog::info("{} {} M={}: {}", row.dtype, row.pattern, row.m, found);
    });
    rows.insert(rows.end(), measured.begin(), measured.end());
  };
  for (std::vector<PlannedModel>& models : planned_models(command, model_options, options)) {
    // All patterns of one dtype are held at once where there is room, because they are timed in turn.
    if (fit_together(models, options)) {
      measure(models);
      continue;
    }
    if (!quiet && models.size() > 1)
      spdlog::info("{} models do not fit beside each other: they are timed one after another", models.size());
    for (PlannedModel& model : models) {
      fit_alone(model, options);
      measure({&model, 1});
    }
  }
  if (command.json != "-") {
    if (card) {
      print_card_limits(limits);
    } else {
      print_limits(limits);
    }
    fmt::print("{}", model_table(rows, limits));
  }
  write_results(command, phase == BenchPhase::kPrefill ? "bench prefill" : "bench decode", limits,
                model_rows_json(rows, limits));
  for (const BenchModelRow& row : rows) {
    if (row.has_figures()) continue;
    ErrorFacts facts;
    facts.wrong_result = true;
    fail_with(std::move(facts), ErrorKind::kInternal, "{} {} M={}: {}", row.dtype, row.pattern, row.m,
              row.check);
  }
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
  command->add_option("--seed", options->seed, "Seed of the random data")->capture_default_str();
  command->add_option("--json", options->json,
                      "Write the figures as JSON (docs/bench.md); - for standard output");
}

}  // namespace

void add_bench(CLI::App& app, const GlobalOptions& global) {
  CLI::App* bench =
      app.add_subcommand("bench", "Speed: one linear, prefill or decode, against this machine's limits");
  bench->require_subcommand(1);
  add_bench_quant(*bench, global);
  bench->footer(
      "Example: slidesparse bench gemm --shape 8192,2048 --dtype int8 --patterns dense,2:4,6:8 --m 1,512");

  auto gemm_command = std::make_shared<BenchCommand>();
  CLI::App* gemm = bench->add_subcommand("gemm", "One linear layer at a time, each output checked first");
  add_common(gemm, gemm_command);
  gemm->add_option("--shape", gemm_command->shape, "N,K: output and input channels of one's own");
  gemm->add_option("--layout", gemm_command->layout,
                   "Of random weights with a pattern: slide, or split (some channels 2:4, the others dense)")
      ->capture_default_str();
  gemm->add_option("--min-seconds", gemm_command->min_seconds, "Time a row at least")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  gemm->add_option("--backend", gemm_command->backends, "List of backends; all: the best kernel of each")
      ->delimiter(',');
  gemm->add_option("--device", gemm_command->device, "cpu or cuda (default: cuda where there is a card)");
  gemm->add_option("--cache", gemm_command->cache,
                   "On a card: file that `tune` wrote (default: $XDG_CACHE_HOME/slidesparse/tuning.json)");
  gemm->add_flag("--burst", gemm_command->burst, "On a card: rest before each window, so that it is cool");
  gemm->add_option("--weights", gemm_command->weights,
                   "Forms of a layer that kernels may read: smallest (one), balanced (one), fastest (any)")
      ->capture_default_str();
  gemm->add_flag("--product-only", gemm_command->product,
                 "On a card: time what follows the quantisation of the inputs");
  gemm->add_option("--layer", gemm_command->layer, "With DIR: the layer whose weights are taken")
      ->capture_default_str();
  gemm->add_flag("--explain", gemm_command->explain, "Why each kernel was chosen, and why not the others");
  gemm->footer(
      "Example: slidesparse bench gemm --model qwen2.5-7b --dtype int8,fp8 --patterns dense,6:8 --m "
      "1,64,512");
  gemm->callback([gemm_command, &global] { run_gemm(*gemm_command, global.quiet); });

  for (const BenchPhase phase : {BenchPhase::kPrefill, BenchPhase::kDecode}) {
    const bool prefill = phase == BenchPhase::kPrefill;
    auto options = std::make_shared<BenchCommand>();
    CLI::App* command =
        bench->add_subcommand(prefill ? "prefill" : "decode", prefill ? "Whole prompts, M tokens in a step"
                                                                      : "M sequences, one token each a step");
    add_common(command, options);
    add_linear_options(*command, options->linear);
    command->add_option("--layout", options->layout, "With --model: slide or split weights")
        ->capture_default_str();
    command->add_option("--kv-cache-dtype", options->kv_dtype, "Keys and values: bf16, or on a card fp8")
        ->capture_default_str();
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
