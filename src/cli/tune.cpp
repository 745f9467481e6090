#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/dtype_names.h"
#include "cli/gemm_subject.h"
#include "core/cuda/status.h"
#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/log.h"
#include "core/text.h"
#include "engine/layer_shapes.h"
#include "gemm/tuner.h"
#include "model/placement.h"
#include "model/presets.h"

namespace slidesparse {
namespace {

struct TuneCommand {
  std::string directory, model, shape, cache, device, head;
  std::string layout = "slide";
  std::vector<std::string> dtypes, patterns, backends;
  std::vector<std::int64_t> m;
  bool force = false;
  bool burst = false;
  double window = 1e-3;
  int verify = 0;
};

// Choices within this time over the best count as right; so many of the others are shown.
constexpr double kVerifyLimit = 1.03;
constexpr std::size_t kVerifyRows = 12;

struct NamedShape {
  std::string name;
  TrackShape shape;
};

TunerOptions tuner_options(const TuneCommand& command, std::vector<NamedShape>& names) {
  const GemmSubject subject = gemm_subject("tune", {command.directory, command.model, command.shape,
                                                    command.dtypes, command.patterns, 0, command.layout});
  TunerOptions options;
  options.device = parse_device(command.device);
  for (const DType dtype : subject.dtypes) {
    for (const GemmShape& shape : subject.shapes)
      names.push_back({shape.name, {shape.n, shape.k, dtype, shape.bias, shape.stored, shape.layout}});
  }
  if (const std::optional<DType> head = parse_head(command.head)) {
    if (!subject.head)
      fail(ErrorKind::kUsage, "--head {}: goes with DIR or --model; a shape of one's own has none",
           command.head);
    names.push_back({subject.head->name, head_track(*subject.head, *head)});
  }
  for (const NamedShape& named : names) options.shapes.push_back(named.shape);
  options.patterns = subject.patterns;
  options.ms = command.m;
  if (options.ms.empty()) {
    options.ms = options.device == DeviceKind::kCpu
                     ? std::vector<std::int64_t>{1, 8, 64, 512}
                     : std::vector<std::int64_t>{16, 64, 256, 1024, 4096, 16384};
  }
  for (const std::int64_t m : options.ms) {
    if (m < 1 || m > (std::int64_t{1} << 20)) fail(ErrorKind::kUsage, "--m {}: between 1 and {}", m, 1 << 20);
  }
  for (const std::string& name : command.backends) {
    if (backend_named(name).device() != options.device) {
      fail(ErrorKind::kUsage, "--backend {}: does not run on {}", name,
           options.device == DeviceKind::kCpu ? "the CPU" : "a GPU");
    }
  }
  options.backends = command.backends;
  options.force = command.force;
  options.rules.window_seconds = command.window;
  if (command.burst) {
    options.rules.rest_seconds = kBurstRestSeconds;
    options.rules.window_seconds = kBurstWindowSeconds;
  }
  if (options.device == DeviceKind::kCuda) options.probe = probe_kernels;
  return options;
}

// "12 s", "3 min 5 s".
std::string duration(double seconds) {
  const auto whole = std::lround(seconds);
  return whole < 60 ? fmt::format("{} s", whole) : fmt::format("{} min {} s", whole / 60, whole % 60);
}

// "12.3 (1.041 cusparselt)": microseconds, speed against the fastest dense kernel, backend. DENSE: what runs
// does not use the zeros.
std::string cell(const Choice& choice, double dense) {
  return fmt::format("{:.1f} ({:.3f} {}{})", 1e6 * choice.seconds, dense / choice.seconds,
                     choice.backend->name(), choice.kernel.sparse ? "" : ", DENSE");
}

// What choose() takes by now: a row for each layer, dtype and M.
std::string summary(const std::vector<NamedShape>& shapes, const TunerOptions& options,
                    const TuningCache& cache) {
  std::vector<std::string> header{"layer", "N", "K", "dtype", "M", "dense us", "kernel"};
  for (const Pattern& pattern : options.patterns) {
    if (!pattern.is_dense()) header.push_back(pattern.to_string());
  }
  using Align = TextTable::Align;
  TextTable table(header, {Align::kLeft, Align::kRight, Align::kRight, Align::kLeft, Align::kRight,
                           Align::kRight, Align::kLeft});
  const auto chosen = [&](const TrackShape& shape, Pattern pattern, std::int64_t m) -> std::optional<Choice> {
    try {
      Choice choice = choose(track_desc(shape, pattern, m, {options.device, 0}), options.backends, &cache);
      if (choice.seconds > 0) return choice;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kUnsupported) throw;
    }
    return {};
  };
  for (const NamedShape& named : shapes) {
    const TrackShape& shape = named.shape;
    for (const std::int64_t m : ms_of(shape, options.ms)) {
      const auto dense = chosen(shape, Pattern(), m);
      std::vector<std::string> cells{named.name, fmt::format("{}", shape.n), fmt::format("{}", shape.k),
                                     std::string(dtype_word(shape.dtype)), fmt::format("{}", m)};
      cells.push_back(dense ? fmt::format("{:.1f}", 1e6 * dense->seconds) : "-");
      cells.push_back(dense ? dense->kernel.name : "-");
      for (const Pattern& pattern : options.patterns) {
        if (pattern.is_dense()) continue;
        const auto sparse = shape.never_pruned ? std::nullopt : chosen(shape, pattern, m);
        cells.push_back(sparse ? cell(*sparse, dense ? dense->seconds : 0) : "-");
      }
      table.add_row(std::move(cells));
    }
  }
  return table.to_string();
}

// How far choices from the cache are from the best that a measurement of everything finds.
void print_verification(const std::vector<TunedCell>& cells) {
  std::vector<const TunedCell*> order;
  double logs = 0;
  int within = 0;
  for (const TunedCell& cell : cells) {
    order.push_back(&cell);
    logs += std::log(cell.ratio());
    within += cell.ratio() <= kVerifyLimit ? 1 : 0;
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const TunedCell* a, const TunedCell* b) { return a->ratio() > b->ratio(); });
  TextTable table({"problem", "chosen", "us", "best of all", "us", "time"},
                  {TextTable::Align::kLeft, TextTable::Align::kLeft, TextTable::Align::kRight,
                   TextTable::Align::kLeft, TextTable::Align::kRight, TextTable::Align::kRight});
  for (std::size_t i = 0; i < std::min(order.size(), kVerifyRows); ++i) {
    const TunedCell* const cell = order[i];
    table.add_row({cell->desc.to_string(), cell->chosen, fmt::format("{:.1f}", 1e6 * cell->chosen_seconds),
                   cell->best, fmt::format("{:.1f}", 1e6 * cell->best_seconds),
                   fmt::format("{:.3f}", cell->ratio())});
  }
  const auto count = static_cast<double>(cells.size());
  fmt::print("worst of {} cells against every candidate:\n{}", cells.size(), table.to_string());
  if (cells.empty()) return;
  fmt::print(
      "within {:.0f} %: {} of {} cells ({:.1f} %); geometric mean of the times over the best: {:.4f}\n",
      100 * (kVerifyLimit - 1), within, cells.size(), 100 * within / count, std::exp(logs / count));
}

void run_tune(const TuneCommand& command, bool quiet) {
  std::vector<NamedShape> names;
  TunerOptions options = tuner_options(command, names);
  const TuningMachine machine = tuning_machine(options.device);
  const std::string path = command.cache.empty() ? default_tuning_cache() : command.cache;
  TuningCache cache = TuningCache::load(path, machine);
  fmt::print("device: {}{}{}\n", machine.device, machine.driver.empty() ? "" : ", driver " + machine.driver,
             machine.libraries.empty() ? "" : "; " + machine.libraries);
  if (const std::int64_t stale = cache.stale(); stale > 0) {
    fmt::print("{} measurements of other versions of driver, libraries or this program are not used{}\n",
               stale, command.force ? " and are dropped" : "");
    if (command.force) cache.drop_stale();
  }
  if (command.device.empty() && !cuda_status().available)
    fmt::print("no card ({}): the CPU's kernels are tuned\n", cuda_status().reason);
  std::fflush(stdout);
  const double start = now_seconds();
  if (!quiet) {
    options.on_progress = [&](const std::string& what, double done) {
      const double gone = now_seconds() - start;
      spdlog::info("{:3.0f} %  {}{}", 100 * done, what,
                   done > 0.02 ? fmt::format("  ({} left)", duration(gone / done * (1 - done))) : "");
    };
  }
  const TunerTotals totals = tune(options, cache, path);
  fmt::print("{}(in brackets: speed over the fastest dense kernel, and the backend)\n",
             summary(names, options, cache));
  for (const std::string& line : totals.failures) fmt::print("failed: {}\n", printable(line, 300));
  fmt::print(
      "{} problems measured, {} were in the cache, {} impossible here; {} kernels timed, {} failed; {} in "
      "{}\n",
      totals.measured, totals.found, totals.impossible, totals.kernels, totals.failed,
      duration(totals.seconds), printable(path, 300));
  fmt::print(
      "seconds: {:.1f} asking libraries, {:.1f} trying kernels in another process, {:.1f} preparing, {:.1f} "
      "checking, {:.1f} screening, {:.1f} timing the best\n",
      totals.asking, totals.probing, totals.race.preparing, totals.race.checking, totals.race.screening,
      totals.race.finals);
  if (command.verify > 0) {
    std::fflush(stdout);
    print_verification(verify_tuning(options, cache, command.verify));
  }
}

}  // namespace

void add_tune(CLI::App& app, const GlobalOptions& global) {
  auto options = std::make_shared<TuneCommand>();
  CLI::App* command = app.add_subcommand("tune", "Measure which kernel is fastest for each layer and M");
  command->add_option("DIR", options->directory, "Packed directory: its own dtype and pattern");
  command->add_option("--model", options->model,
                      fmt::format("Shapes of a known model: {}", fmt::join(preset_names(), ", ")));
  command->add_option("--shape", options->shape, "N,K: output and input channels of one's own");
  command->add_option("--dtype", options->dtypes, "List of int8, fp8, bf16 (default int8)")->delimiter(',');
  command->add_option("--patterns", options->patterns, "List of patterns (default dense,6:8)")
      ->delimiter(',');
  command
      ->add_option(
          "--layout", options->layout,
          "Layout of random weights with a pattern: slide, or split (some channels 2:4, the others dense)")
      ->capture_default_str();
  command
      ->add_option("--m", options->m,
                   "List of M, tokens in a step (default 16,64,256,1024,4096,16384; CPU 1,8,64,512)")
      ->delimiter(',');
  command->add_option("--head", options->head,
                      "Tune the output head, too: bf16, int8 or fp8 (at 1024 rows at most)");
  command->add_option("--backend", options->backends, "List of backends (default: all of the device)")
      ->delimiter(',');
  command->add_option("--device", options->device, "cpu or cuda (default: cuda where there is a card)");
  command->add_option("--cache", options->cache,
                      "File of measurements (default: $XDG_CACHE_HOME/slidesparse/tuning.json)");
  command->add_option("--window", options->window, "Seconds of one timing")
      ->check(CLI::Range(1e-6, 60.0))
      ->capture_default_str();
  command->add_flag("--force", options->force, "Measure again what the cache has; drop stale measurements");
  command->add_flag("--burst", options->burst, "Rest before each window of the last rounds: a cool card");
  command
      ->add_option("--verify", options->verify,
                   "Afterwards, measure every candidate of N problems and compare with what is chosen")
      ->check(CLI::NonNegativeNumber);
  command->footer(
      "Goes on where it was stopped.\n"
      "Example: slidesparse tune --model qwen2.5-7b --dtype fp8 --patterns dense,2:4,6:8 --m 64,2048");
  command->callback([options, &global] { run_tune(*options, global.quiet); });
}

}  // namespace slidesparse
