#include "sweep/sweep.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "core/fail.h"
#include "core/text.h"
#include "io/json.h"
#include "model/placement.h"
#include "sweep/estimate.h"
#include "sweep/status.h"
#include "sweep/worker.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kLargestPlan = 1 << 20;  // bytes

struct SweepCommand {
  std::string plan, database, deadline, cache, work;
  std::vector<std::string> inject;
  SweepOptions options;
  bool dry_run = false;
  bool status = false;
};

// This program as a worker, under the same global options.
std::vector<std::string> worker_command(const GlobalOptions& global) {
  std::vector<std::string> command{"/proc/self/exe"};
  if (global.threads > 0) command.insert(command.end(), {"--threads", std::to_string(global.threads)});
  if (!global.isa.empty()) command.insert(command.end(), {"--isa", global.isa});
  command.insert(command.end(), {"--quiet", "sweep-worker"});
  return command;
}

void say(const std::string& line) {
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

SweepOptions sweep_options(const SweepCommand& command, const GlobalOptions& global) {
  if (command.plan.empty())
    fail(ErrorKind::kUsage, "sweep: give a plan: `slidesparse plan mission` prints one");
  SweepOptions options = command.options;
  options.plan_text = read_text_file(command.plan, kLargestPlan);
  options.plan = parse_plan(options.plan_text, command.plan);
  options.database = command.database;
  // Removed at the end: always a directory of this database's own.
  const std::filesystem::path database = command.database;
  options.work = (command.work.empty() ? database.parent_path() : std::filesystem::path(command.work)) /
                 (database.filename().string() + ".work");
  options.cache_asked = !command.cache.empty();
  options.cache = options.cache_asked ? command.cache : default_tuning_cache();
  options.worker = worker_command(global);
  options.command = fmt::format("slidesparse sweep {} --db {}{}", command.plan, command.database,
                                command.deadline.empty() ? "" : " --deadline " + command.deadline);
  if (!command.deadline.empty()) {
    const auto seconds = parse_duration(command.deadline);
    if (!seconds)
      fail(ErrorKind::kUsage, "--deadline {}: a time such as 90s, 9m or 1.5h",
           printable(command.deadline, 40));
    options.deadline = *seconds;
  }
  for (const std::string& text : command.inject) options.injections.push_back(parse_injection(text));
  options.say = global.quiet ? [](const std::string&) {} : say;
  return options;
}

void print_plan(const SweepOptions& options) {
  std::map<std::string, std::pair<std::int64_t, double>> phases;  // open cells and their seconds
  const SweepTotals totals = plan_sweep(options, [&](const Cell& cell, double seconds) {
    fmt::print("{}, about {}\n", cell_words(cell), duration_words(seconds));
    auto& [count, sum] = phases[std::string(phase_name(cell.phase))];
    ++count;
    sum += seconds;
  });
  for (const auto& [phase, open] : phases)
    fmt::print("{}: {} cells, about {}\n", phase, open.first, duration_words(open.second));
  fmt::print("{}: {} cells, {} measured, {} given up, {} open, about {}\n", options.plan.name, totals.cells,
             totals.measured, totals.given_up, totals.open, duration_words(totals.seconds_left));
}

void run(const SweepCommand& command, const GlobalOptions& global) {
  if (command.status) {
    fmt::print("{}", sweep_status(command.database));
    return;
  }
  const SweepOptions options = sweep_options(command, global);
  if (command.dry_run) return print_plan(options);
  const SweepTotals totals = run_sweep(options);
  const std::string words = fmt::format("{} of {} cells measured, {} given up, {} open", totals.measured,
                                        totals.cells, totals.given_up, totals.open);
  if (totals.end == "interrupted")
    fail(ErrorKind::kInterrupted, "interrupted; {}: the same command goes on", words);
  fmt::print("{}{}\n", words,
             totals.end == "deadline" ? "; stopped by --deadline: the same command goes on" : "");
}

}  // namespace

void add_sweep(CLI::App& app, const GlobalOptions& global) {
  auto options = std::make_shared<SweepCommand>();
  CLI::App* command =
      app.add_subcommand("sweep", "Runs a plan, cell by cell, into a database that survives anything");
  command->add_option("PLAN", options->plan, "Plan: JSON (docs/sweep.md); `slidesparse plan` prints some");
  command->add_option("--db", options->database, "Database of results; goes on where it is")->required();
  command->add_flag("--dry-run", options->dry_run, "List the open cells with the time that they will take");
  command->add_flag("--status", options->status, "Say what is done and what runs; no PLAN is needed");
  command->add_option("--deadline", options->deadline, "Stop before so much time is gone: 90s, 9m, 1.5h");
  command->add_flag("--retry-failed", options->options.retry_failed, "Try again what was given up");
  command->add_flag("--any-version", options->options.any_version,
                    "Keep figures of other drivers, libraries and versions of this program");
  command->add_option("--cache", options->cache,
                      "File of measured kernels (default: $XDG_CACHE_HOME/slidesparse/tuning.json)");
  command->add_option("--work", options->work,
                      "Directory for models that are deleted again, as DB.work (default: beside DB)");
  command->add_option("--inject", options->inject)->group("");  // for tests: docs/sweep.md
  command->footer(
      "Ctrl-C finishes the running cell and stops; the same command goes on.\n"
      "Example: slidesparse sweep plan.json --db results.db --deadline 9m");
  command->callback([options, &global] { run(*options, global); });
}

void add_sweep_worker(CLI::App& app) {
  CLI::App* command = app.add_subcommand("sweep-worker", "Run cells of a sweep");
  command->group("");  // for this program's own use: not in the help
  command->callback([] { run_sweep_worker(); });
}

}  // namespace slidesparse
