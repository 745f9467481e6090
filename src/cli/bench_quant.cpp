#include <fmt/core.h>
#include <fmt/ranges.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/dtype_names.h"
#include "cli/gemm_subject.h"
#include "cli/output.h"
#include "cli/pattern_option.h"
#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/log.h"
#include "core/text.h"
#include "gemm/bench_quant.h"

namespace slidesparse {
namespace {

using cuda::Producer;
using nlohmann::ordered_json;

struct BenchQuantCommand {
  std::string model, json;
  std::vector<std::string> dtypes{"fp8"}, patterns{"dense", "6:8"}, producers{"plain", "norm", "silu"};
  std::vector<std::int64_t> m{1, 64, 4096, 16384}, k;
  std::string layout = "slide";
};

std::vector<Producer> parse_producers(const std::vector<std::string>& texts) {
  const std::vector<Producer> known{Producer::kNone, Producer::kRmsNorm, Producer::kSiluMul};
  std::vector<Producer> found;
  for (const std::string& text : texts) {
    for (const Producer producer : known) {
      if (producer_name(producer) == text) found.push_back(producer);
    }
    if (found.empty() || producer_name(found.back()) != text)
      fail(ErrorKind::kUsage, "--producers {}: a list of plain, norm, silu", printable(text, 40));
  }
  return found;
}

// The K of every linear that quantised activations go into, each once.
std::vector<std::int64_t> widths(const BenchQuantCommand& command) {
  if (!command.k.empty() && !command.model.empty())
    fail(ErrorKind::kUsage, "bench quant: give --k or --model, not both");
  if (!command.k.empty()) return command.k;
  std::set<std::int64_t> found;
  for (const GemmShape& shape : gemm_subject("bench quant", {"", command.model, "", {}, {}}).shapes)
    found.insert(shape.k);
  return {found.begin(), found.end()};
}

QuantBenchOptions bench_options(const BenchQuantCommand& command, bool quiet) {
  QuantBenchOptions options;
  for (const std::int64_t size : command.m) {
    if (size < 1) fail(ErrorKind::kUsage, "--m {}: must be at least 1", size);
  }
  for (const std::int64_t size : command.k) {
    if (size < 1) fail(ErrorKind::kUsage, "--k {}: must be at least 1", size);
  }
  const bool split = parse_layout_option(command.layout) == PackedLayout::kSplit;
  for (const Producer producer : parse_producers(command.producers)) {
    for (const std::string& dtype : command.dtypes) {
      for (const Pattern pattern : parse_pattern_list(command.patterns)) {
        // 2:4 is multiplied as it is.
        const bool as_is = pattern.is_dense() || pattern.half_group() == 2;
        const int lift = as_is || split ? 0 : pattern.half_group();
        for (const std::int64_t m : command.m) {
          for (const std::int64_t k : widths(command))
            options.cases.push_back({producer, parse_dtype_option(dtype), lift, split && !as_is, m, k});
        }
      }
    }
  }
  if (!quiet) options.on_progress = [](const std::string& next) { spdlog::info("{}", next); };
  return options;
}

std::string order_text(const QuantBenchCase& problem) {
  if (problem.gather) return "gather";
  return problem.lift == 0 ? "none" : Pattern::of_half_group(problem.lift).to_string();
}

void print_table(const QuantBenchResult& result) {
  fmt::print("device-to-device copy of 1 GiB: {}/s, in and out counted\n", format_bytes(result.copy_rate));
  using enum TextTable::Align;
  TextTable table({"producer", "dtype", "lift", "M", "K", "us (10..90 %)", "over empty", "GB/s", "of a copy",
                   "of 1 GiB's"},
                  {kLeft, kLeft, kLeft, kRight, kRight, kRight, kRight, kRight, kRight, kRight});
  for (const QuantBenchRow& row : result.rows) {
    table.add_row({std::string(producer_name(row.problem.producer)),
                   std::string(dtype_word(row.problem.dtype)), order_text(row.problem),
                   fmt::format("{}", row.problem.m), fmt::format("{}", row.problem.k),
                   fmt::format("{:.2f} ({:.2f}..{:.2f})", 1e6 * row.seconds.median, 1e6 * row.seconds.low,
                               1e6 * row.seconds.high),
                   fmt::format("{:.2f}", 1e6 * (row.seconds.median - row.empty_seconds)),
                   fmt::format("{:.0f}{}", 1e-9 * row.bytes_per_second, row.beyond_cache ? "" : " (cached)"),
                   fmt::format("{:.0f} %", 100 * row.share_of_copy),
                   fmt::format("{:.0f} %", 100 * row.share_of_asymptotic)});
  }
  fmt::print("{}", table.to_string());
}

ordered_json rows_json(const QuantBenchResult& result) {
  ordered_json rows = ordered_json::array();
  for (const QuantBenchRow& row : result.rows) {
    rows.push_back({{"producer", producer_name(row.problem.producer)},
                    {"dtype", dtype_word(row.problem.dtype)},
                    {"lift", order_text(row.problem)},
                    {"m", row.problem.m},
                    {"k", row.problem.k},
                    {"bytes", row.bytes},
                    {"seconds", spread_json(row.seconds)},
                    {"copy_seconds", row.copy_seconds.median},
                    {"empty_seconds", row.empty_seconds},
                    {"bytes_per_second", row.bytes_per_second},
                    {"share_of_copy", row.share_of_copy},
                    {"share_of_asymptotic_copy", row.share_of_asymptotic},
                    {"beyond_cache", row.beyond_cache}});
  }
  return rows;
}

void run_bench_quant(const BenchQuantCommand& command, bool quiet) {
  const QuantBenchOptions options = bench_options(command, quiet);
  const QuantBenchResult result = bench_quant(options);
  if (command.json != "-") print_table(result);
  if (command.json.empty()) return;
  ordered_json json = describe_run("bench quant");
  json["limits"] = {{"copy_bytes_per_second", result.copy_rate}};
  json["rows"] = rows_json(result);
  write_json(command.json, json);
}

}  // namespace

void add_bench_quant(CLI::App& bench, const GlobalOptions& global) {
  auto options = std::make_shared<BenchQuantCommand>();
  CLI::App* command =
      bench.add_subcommand("quant", "The kernel before a product: norm or SiLU, quantise and lift (a card)");
  command->add_option("--model", options->model, "The widths of a known model: llama3.2-1b, qwen2.5-7b, ...");
  command->add_option("--k", options->k, "List of widths of one's own")->delimiter(',');
  command->add_option("--m", options->m, "List of M: tokens")->delimiter(',')->capture_default_str();
  command->add_option("--dtype", options->dtypes, "List of int8, fp8")->delimiter(',')->capture_default_str();
  command->add_option("--patterns", options->patterns, "List of patterns, which decide the lift")
      ->delimiter(',')
      ->capture_default_str();
  command
      ->add_option("--layout", options->layout, "slide: lift to the pattern; split: gather by a permutation")
      ->capture_default_str();
  command->add_option("--producers", options->producers, "List of plain, norm, silu")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--json", options->json,
                      "Write the figures as JSON (docs/bench.md); - for standard output");
  command->footer(
      "Example: slidesparse bench quant --model qwen2.5-7b --dtype fp8 --patterns dense,6:8 --m 64,16384");
  command->callback([options, &global] { run_bench_quant(*options, global.quiet); });
}

}  // namespace slidesparse
