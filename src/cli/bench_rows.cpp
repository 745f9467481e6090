#include "cli/bench_rows.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "cli/output.h"
#include "core/dtype_words.h"
#include "core/text.h"

namespace slidesparse {
namespace {

using Align = TextTable::Align;
using nlohmann::ordered_json;

std::string microseconds(const Spread& spread) {
  return fmt::format("{:.1f} ({:.1f}..{:.1f})", 1e6 * spread.median, 1e6 * spread.low, 1e6 * spread.high);
}

// "100 %", or DENSE so that nobody takes a dense row for a sparse one.
std::string sparse_text(double share) {
  return share == 0 ? "DENSE" : fmt::format("{:.0f} %", 100 * share);
}

// "sustained 1335 MHz 690 W 61 C".
std::string mode_text(const GemmBenchRow& row) {
  if (!row.card.known) return row.mode;
  return fmt::format("{} {} MHz {} W {} C", row.mode, row.card.sm_clock_mhz, row.card.power_watts,
                     row.card.temperature_celsius);
}

// "6:8", "6:8 split" or "mixed".
void add_pattern(ordered_json& row, const std::string& pattern) {
  row["pattern"] = pattern;
  if (pattern == "mixed") return;
  const Pattern parsed = Pattern::parse(pattern.substr(0, pattern.find(' ')));
  row["kept"] = parsed.kept();
  row["zeroed"] = parsed.zeroed();
}

// Seconds of the dense row with the same phase, dtype and M, if there is one in this run.
std::map<std::string, double> dense_seconds(const std::vector<BenchModelRow>& rows) {
  std::map<std::string, double> seconds;
  for (const BenchModelRow& row : rows) {
    if (row.pattern == "dense" && row.has_figures())
      seconds.emplace(fmt::format("{} {}", row.dtype, row.m), row.seconds.median);
  }
  return seconds;
}

double ratio_to_dense(const std::map<std::string, double>& dense, const BenchModelRow& row) {
  const auto found = dense.find(fmt::format("{} {}", row.dtype, row.m));
  return found == dense.end() ? 0 : found->second / row.seconds.median;
}

}  // namespace

std::string gemm_table(const GemmBenchResult& result) {
  TextTable table(
      {"layer", "N", "K", "M", "dtype", "pattern", "kernel", "sparse", "check", "us (10..90 %)", "GOP/s",
       "GB/s", "of limit", "vs dense", "mode"},
      {Align::kLeft, Align::kRight, Align::kRight, Align::kRight, Align::kLeft, Align::kLeft, Align::kLeft});
  for (const GemmBenchRow& row : result.rows) {
    std::vector<std::string> cells{row.shape,
                                   fmt::format("{}", row.n),
                                   fmt::format("{}", row.k),
                                   fmt::format("{}", row.m),
                                   std::string(dtype_word(row.dtype)),
                                   row.pattern.to_string() + (row.layout == Layout::kSplit ? " split" : "") +
                                       (row.own_weights ? ", own" : ""),
                                   row.kernel + (row.chosen ? " (chosen)" : ""),
                                   sparse_text(row.sparse_share),
                                   row.check};
    if (row.check == "ok") {
      cells.insert(cells.end(), {microseconds(row.seconds), fmt::format("{:.0f}", 1e-9 * row.ops_per_second),
                                 fmt::format("{:.1f}", 1e-9 * row.bytes_per_second),
                                 fmt::format("{:.0f} %", 100 * row.share_of_limit),
                                 fmt::format("{:.3f}", row.dense_ratio), mode_text(row)});
    }
    table.add_row(std::move(cells));
  }
  return table.to_string();
}

std::string gemm_explanation(const GemmBenchResult& result) {
  std::string text;
  for (const GemmBenchRow& row : result.rows) {
    if (row.n == 0) continue;  // a sum
    text += fmt::format("\n{} {} {} M={}: {}\n", row.shape, dtype_word(row.dtype), row.pattern.to_string(),
                        row.m, row.kernel);
    if (row.check == "ok") {
      text += fmt::format("  {} us, {:.0f} % of the limit\n", microseconds(row.seconds),
                          100 * row.share_of_limit);
    } else {
      text += fmt::format("  no figure: {}\n", row.check);
    }
    if (!row.reason.empty()) text += fmt::format("  chosen: {}\n", row.reason);
    if (!row.runner_up.empty())
      text +=
          fmt::format("  runner-up: {}, {:.1f} us when tuned\n", row.runner_up, 1e6 * row.runner_up_seconds);
    for (const std::string& other : row.others) text += fmt::format("  not {}\n", other);
  }
  return text;
}

std::string weights_table(const GemmBenchResult& result, std::int64_t layers) {
  TextTable table({"layer", "dtype", "pattern", "backend", "weights kept", "bytes"},
                  {Align::kLeft, Align::kLeft, Align::kLeft, Align::kLeft, Align::kLeft, Align::kRight});
  std::map<std::string, std::int64_t> sums;  // by dtype, pattern and backend
  for (const KeptWeights& kept : result.weights) {
    std::vector<std::string> forms;
    for (const KeptForm& form : kept.forms)
      forms.push_back(fmt::format("{} ({})", form.form, format_bytes(static_cast<double>(form.bytes))));
    const std::string backend = kept.backend.empty() ? "any" : kept.backend;
    table.add_row({kept.shape, std::string(dtype_word(kept.dtype)), kept.pattern.to_string(), backend,
                   fmt::format("{}", fmt::join(forms, " + ")),
                   format_bytes(static_cast<double>(bytes_of(kept.forms)))});
    sums[fmt::format("{} {}, backend {}", dtype_word(kept.dtype), kept.pattern.to_string(), backend)] +=
        bytes_of(kept.forms);
  }
  std::string text = table.to_string();
  if (layers <= 1) return text;
  for (const auto& [name, bytes] : sums) {
    text += fmt::format("{}: {} for {} layers\n", name,
                        format_bytes(static_cast<double>(bytes) * static_cast<double>(layers)), layers);
  }
  return text;
}

ordered_json weights_json(const GemmBenchResult& result) {
  ordered_json all = ordered_json::array();
  for (const KeptWeights& kept : result.weights) {
    ordered_json json{{"name", kept.shape}, {"dtype", dtype_word(kept.dtype)}};
    add_pattern(json, kept.pattern.to_string());
    if (!kept.backend.empty()) json["backend"] = kept.backend;
    for (const KeptForm& form : kept.forms)
      json["forms"].push_back({{"form", form.form}, {"bytes", form.bytes}});
    all.push_back(std::move(json));
  }
  return all;
}

ordered_json limits_json(const MachineLimits& limits) {
  return {{"read_bytes_per_second", limits.read_bytes_per_second},
          {"int8_ops_per_second", limits.int8_ops_per_second},
          {"bf16_flops_per_second", limits.bf16_flops_per_second},
          {"fp8_flops_per_second", limits.fp8_flops_per_second}};
}

ordered_json gemm_rows_json(const GemmBenchResult& result) {
  ordered_json rows = ordered_json::array();
  for (const GemmBenchRow& row : result.rows) {
    ordered_json json{{"phase", "gemm"},
                      {"name", row.shape},
                      {"n", row.n},
                      {"k", row.k},
                      {"m", row.m},
                      {"step_tokens", row.m},
                      {"dtype", dtype_word(row.dtype)}};
    add_pattern(json, row.pattern.to_string());
    json["layout"] = layout_name(row.layout);
    if (row.n != 0) json["weights"] = row.own_weights ? "own" : "random";
    json["backend"] = row.backend;
    json["kernel"] = row.kernel;
    if (row.chosen) json["chosen"] = true;
    json["sparse_share"] = row.sparse_share;
    json["mode"] = row.mode;
    json["two_roundings"] = row.two_roundings;
    json["check"] = row.check;
    if (!row.reason.empty()) json["reason"] = row.reason;
    if (!row.runner_up.empty())
      json["runner_up"] = {{"kernel", row.runner_up}, {"seconds", row.runner_up_seconds}};
    if (row.card.known) {
      json["card"] = {{"sm_clock_mhz", row.card.sm_clock_mhz},
                      {"power_watts", row.card.power_watts},
                      {"temperature_celsius", row.card.temperature_celsius},
                      {"power_capped", row.card.power_capped},
                      {"throttled", row.card.throttled}};
    }
    if (row.check == "ok") {
      json["seconds"] = spread_json(row.seconds);
      json["flops_per_second"] = row.ops_per_second;
      json["weight_bytes"] = row.weight_bytes;
      json["bytes_per_second"] = row.bytes_per_second;
      json["share_of_limit"] = row.share_of_limit;
      json["ratio_to_dense"] = row.dense_ratio;
    }
    rows.push_back(std::move(json));
  }
  return rows;
}

std::string model_table(const std::vector<BenchModelRow>& rows, const MachineLimits& limits) {
  TextTable table({"model", "phase", "dtype", "pattern", "M", "step_tokens", "check", "tokens/s",
                   "ms/step (10..90 %)", "MB/token", "GB/s", "GFLOP/s", "of limit", "sparse", "vs dense"},
                  {Align::kLeft, Align::kLeft, Align::kLeft, Align::kLeft});
  const auto dense = dense_seconds(rows);
  std::set<std::string> kernels;
  for (const BenchModelRow& row : rows) {
    if (!row.has_figures()) {
      table.add_row({row.subject, row.phase == BenchPhase::kPrefill ? "prefill" : "decode", row.dtype,
                     row.pattern, fmt::format("{}", row.m), fmt::format("{}", row.step_tokens), "FAILED"});
      continue;
    }
    const double ratio = ratio_to_dense(dense, row);
    table.add_row({row.subject, row.phase == BenchPhase::kPrefill ? "prefill" : "decode", row.dtype,
                   row.pattern, fmt::format("{}", row.m), fmt::format("{}", row.step_tokens), row.check,
                   fmt::format("{:.2f}", row.tokens_per_second),
                   fmt::format("{:.2f} ({:.2f}..{:.2f})", 1e3 * row.seconds.median, 1e3 * row.seconds.low,
                               1e3 * row.seconds.high),
                   fmt::format("{:.1f}", 1e-6 * row.bytes_per_token),
                   fmt::format("{:.1f}", row.gigabytes_per_second),
                   fmt::format("{:.0f}", row.gigaflops_per_second),
                   fmt::format("{:.0f} %", 100 * share_of_limit(row, limits)), sparse_text(row.sparse_share),
                   ratio > 0 ? fmt::format("{:.3f}", ratio) : "-"});
    for (const LinearKernel& linear : row.linears)
      kernels.insert(fmt::format("{} {} M={}: {}", row.dtype, row.pattern, row.m, linear.kernel));
  }
  std::string text = table.to_string();
  for (const BenchModelRow& row : rows) {
    if (!row.has_figures())
      text += fmt::format("{} {} M={}: no figure: {}\n", row.dtype, row.pattern, row.m, row.check);
    if (!row.note.empty())
      text += fmt::format("{} {} M={}, step_tokens={}: {}\n", row.dtype, row.pattern, row.m, row.step_tokens,
                          row.note);
  }
  for (const std::string& kernel : kernels) text += "ran " + kernel + "\n";
  return text;
}

ordered_json model_rows_json(const std::vector<BenchModelRow>& rows, const MachineLimits& limits) {
  ordered_json all = ordered_json::array();
  const auto dense = dense_seconds(rows);
  for (const BenchModelRow& row : rows) {
    ordered_json json{{"phase", row.phase == BenchPhase::kPrefill ? "prefill" : "decode"},
                      {"name", row.subject},
                      {"m", row.m},
                      {"step_tokens", row.step_tokens},
                      {"sequences", row.sequences},
                      {"dtype", row.dtype}};
    add_pattern(json, row.pattern);
    json["head"] = row.head;
    ordered_json kernels = ordered_json::object();
    for (const LinearKernel& linear : row.linears) kernels[linear.name] = linear.kernel;
    json["kernels"] = std::move(kernels);
    if (!row.attention.empty()) json["attention"] = row.attention;
    json["sparse_share"] = row.sparse_share;
    json["check"] = row.check;
    if (row.greedy.compared > 0) {
      ordered_json& greedy = json["greedy"];
      greedy = {{"compared", row.greedy.compared},
                {"differing", row.greedy.differing},
                {"wrong", row.greedy.wrong}};
      // Infinity has no JSON.
      if (std::isfinite(row.greedy.worst_gap)) greedy["worst_gap"] = row.greedy.worst_gap;
      greedy["allowed_gap"] = row.greedy.allowed;
    }
    if (!row.note.empty()) json["note"] = row.note;
    if (!row.has_figures()) {
      all.push_back(std::move(json));
      continue;
    }
    json["seconds"] = spread_json(row.seconds);
    json["tokens_per_second"] = row.tokens_per_second;
    json["flops_per_second"] = 1e9 * row.gigaflops_per_second;
    json["weight_bytes"] = row.weight_bytes;
    json["bytes_per_token"] = row.bytes_per_token;
    json["bytes_per_second"] = 1e9 * row.gigabytes_per_second;
    json["share_of_limit"] = share_of_limit(row, limits);
    if (const double ratio = ratio_to_dense(dense, row); ratio > 0) json["ratio_to_dense"] = ratio;
    all.push_back(std::move(json));
  }
  return all;
}

}  // namespace slidesparse
