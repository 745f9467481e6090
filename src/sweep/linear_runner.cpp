#include "sweep/linear_runner.h"

#include <algorithm>
#include <map>

#include "core/fail.h"
#include "core/text.h"
#include "engine/layer_shapes.h"
#include "gemm/bench.h"
#include "gemm/tuner.h"
#include "sweep/model_runner.h"
#include "sweep/plan.h"

namespace slidesparse {
namespace {

constexpr std::size_t kFailuresKept = 10;

// The fused linears of a layer; of a directory, too, with random weights: times depend on shapes alone.
std::vector<GemmShape> shapes_of(const Cell& cell) {
  std::vector<GemmShape> shapes = layer_shapes(shape_of_model(cell.model), cell.model, 0, nullptr);
  if (cell.layout == "split" && cell.pattern != "dense") {
    for (GemmShape& shape : shapes) shape.layout = Layout::kSplit;
  }
  return shapes;
}

DeviceKind device_of(const WorkerSetup& setup) {
  return setup.device == "cuda" ? DeviceKind::kCuda : DeviceKind::kCpu;
}

}  // namespace

void run_tune_cell(const WorkerSetup& setup, const Cell& cell, CellResult& result) {
  TunerOptions options;
  options.device = device_of(setup);
  for (const GemmShape& shape : shapes_of(cell)) {
    options.shapes.push_back(
        {shape.n, shape.k, dtype_of(cell.dtype, "cell"), shape.bias, shape.stored, shape.layout});
  }
  options.patterns = {Pattern::parse(cell.pattern)};
  options.ms = cell.options.m;
  options.backends = backends_of(cell);
  options.seed = static_cast<std::uint64_t>(cell.options.seed.value_or(1));
  if (options.device == DeviceKind::kCuda) options.probe = probe_kernels;
  TuningCache cache = TuningCache::load(setup.cache, tuning_machine(options.device));
  TunerTotals totals = tune(options, cache, setup.cache);
  if (!cell.options.head.empty()) {
    // Whatever backend the cell is about: where that one has no product for a head, another's runs it.
    TunerOptions head = options;
    head.shapes = {
        head_track(head_shape(shape_of_model(cell.model), cell.model), dtype_of(cell.options.head, "cell"))};
    head.backends.clear();
    const TunerTotals more = tune(head, cache, setup.cache);
    totals.seconds += more.seconds;
    totals.measured += more.measured;
    totals.found += more.found;
    totals.kernels += more.kernels;
    totals.failures.insert(totals.failures.end(), more.failures.begin(), more.failures.end());
  }
  result.measure("seconds", "s", totals.seconds);
  result.measure("problems", "1", totals.measured + totals.found);
  result.measure("kernels", "1", totals.kernels);
  if (totals.found > 0)
    result.attributes["note"] = fmt::format("{} problems were in the cache", totals.found);
  std::string failures;
  for (std::size_t i = 0; i < std::min(totals.failures.size(), kFailuresKept); ++i)
    failures += (i > 0 ? "; " : "") + printable(totals.failures[i], 300);
  if (!failures.empty()) result.attributes["failed_kernels"] = failures;
  if (totals.impossible > 0 && totals.measured + totals.found == 0)
    fail(ErrorKind::kUnsupported, "{}: nothing here runs {} {}{}", cell.backend, cell.dtype, cell.pattern,
         cell.layout == "split" ? " split" : "");
  result.outcome = Class::kOk;
}

void run_gemm_cell(const WorkerSetup& setup, const Cell& cell, CellResult& result) {
  const Pattern pattern = Pattern::parse(cell.pattern);
  GemmBenchOptions options;
  options.shapes = shapes_of(cell);
  options.dtypes = {dtype_of(cell.dtype, "cell")};
  options.patterns = {pattern};
  options.ms = {cell.m.value()};
  options.backends = backends_of(cell);
  options.device = device_of(setup);
  options.seed = static_cast<std::uint64_t>(cell.options.seed.value_or(1));
  options.min_seconds = cell.options.min_seconds.value_or(options.min_seconds);
  const TuningCache cache = TuningCache::load(setup.cache, tuning_machine(options.device));
  options.cache = &cache;
  if (options.device == DeviceKind::kCuda) options.probe = probe_kernels;
  const GemmBenchResult bench = bench_gemm(options);
  for (const std::string& warning : bench.warnings) result.attributes["conditions"] = warning;
  std::map<std::string, const GemmBenchRow*> fastest;  // by linear
  result.outcome = Class::kOk;
  for (const GemmBenchRow& row : bench.rows) {
    if (row.n == 0 || row.pattern != pattern) continue;
    const bool good = row.check == "ok";
    result.checks.push_back(
        {row.shape, good, good ? row.kernel : fmt::format("{}: {}", row.kernel, row.check)});
    if (!good) {
      result.outcome = Class::kWrongResult;
      result.message = fmt::format("{}: {}", row.shape, result.checks.back().message);
      continue;
    }
    const GemmBenchRow*& best = fastest[row.shape];
    if (best == nullptr || row.seconds.median < best->seconds.median) best = &row;
  }
  if (result.outcome != Class::kOk) return;
  Measurement seconds{"seconds", "s", 0, 0, 0, 0};
  double ops = 0, at_limit = 0;
  for (const auto& [name, row] : fastest) {
    seconds.value += row->seconds.median;
    seconds.low = *seconds.low + row->seconds.low;
    seconds.high = *seconds.high + row->seconds.high;
    seconds.samples = *seconds.samples + row->seconds.count;
    ops += row->ops_per_second * row->seconds.median;
    at_limit += row->share_of_limit * row->seconds.median;
    const std::string kind = name.substr(name.rfind('/') + 1);
    result.measurements.push_back({"seconds." + kind, "s", row->seconds.median, row->seconds.low,
                                   row->seconds.high, row->seconds.count});
    result.attributes["kernel." + kind] = row->kernel;
  }
  if (fastest.empty())
    fail(ErrorKind::kUnsupported, "{}: nothing here runs {} {}", cell.backend, cell.dtype, cell.pattern);
  result.measurements.push_back(seconds);
  result.measure("flops", "FLOP/s", ops / seconds.value);
  result.measure("share_of_limit", "1", at_limit / seconds.value);
}

}  // namespace slidesparse
