#pragma once

#include <CLI/CLI.hpp>

// One function a command: declares its options, help and example on `app` and sets the callback that runs it.
// Commands translate options, call the library and print; they throw slidesparse::Error, which main turns
// into one line and an exit code.
namespace slidesparse {

// Options that every command has.
struct GlobalOptions {
  int threads = 0;
  std::string isa;
  bool quiet = false;
};

void add_info(CLI::App& app, const GlobalOptions& global);
void add_convert(CLI::App& app, const GlobalOptions& global);
void add_unpack(CLI::App& app, const GlobalOptions& global);
void add_inspect(CLI::App& app, const GlobalOptions& global);
void add_random_model(CLI::App& app, const GlobalOptions& global);
void add_tokenize(CLI::App& app, const GlobalOptions& global);
void add_pareto(CLI::App& app, const GlobalOptions& global);
void add_eval(CLI::App& app, const GlobalOptions& global);
void add_generate(CLI::App& app, const GlobalOptions& global);
void add_bench(CLI::App& app, const GlobalOptions& global);
// A subcommand of bench.
void add_bench_quant(CLI::App& bench, const GlobalOptions& global);
void add_tune(CLI::App& app, const GlobalOptions& global);
void add_report(CLI::App& app, const GlobalOptions& global);
void add_probe_kernel(CLI::App& app);
void add_plan(CLI::App& app, const GlobalOptions& global);
void add_sweep(CLI::App& app, const GlobalOptions& global);
void add_sweep_worker(CLI::App& app);

}  // namespace slidesparse
