#include "cli/linear_options.h"

#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>
#include <tuple>

#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/text.h"
#include "gemm/machine_limits.h"
#include "gemm/tuning_cache.h"

namespace slidesparse {
namespace {

// At the limit, one run would take this many seconds.
double seconds_at_limit(const Linear& linear, std::int64_t m, DType out, const MachineLimits& limits) {
  const double ops =
      2.0 * static_cast<double>(m) * static_cast<double>(linear.n()) * static_cast<double>(linear.k());
  const double peak = limits.ops_per_second(linear.dtype());
  return std::max(static_cast<double>(linear.weight_bytes_read(m, out)) / limits.read_bytes_per_second,
                  peak > 0 ? ops / peak : 0);
}

}  // namespace

void add_linear_options(CLI::App& app, LinearCommand& command) {
  app.add_option("--backend", command.backends, "Backends to use, best first (see info)")->delimiter(',');
  app.add_option("--cache", command.cache,
                 "File that `tune --device cpu` wrote: kernels are chosen by its times (default: by rule)");
  app.add_flag("--explain", command.explain,
               "Say on standard error which kernels run, why, and why not others");
}

LinearOptions linear_options(const LinearCommand& command) {
  LinearOptions options;
  options.backends = command.backends;
  for (const std::string& name : options.backends) backend_named(name);
  if (command.cache.empty()) return options;
  if (!std::filesystem::exists(command.cache)) {
    fail_input("--cache {}: there is no such file; `slidesparse tune --device cpu --cache {}` makes it",
               printable(command.cache, 200), printable(command.cache, 200));
  }
  options.measured =
      std::make_shared<TuningCache>(TuningCache::load(command.cache, tuning_machine(DeviceKind::kCpu)));
  return options;
}

std::string explain_linears(const Model& model, std::span<const std::int64_t> ms) {
  std::optional<MachineLimits> limits;  // measured when there is a time to compare with
  std::string text;
  const std::vector<const Linear*> linears = model.linears();
  std::set<std::tuple<std::int64_t, std::int64_t, DType, std::string>> seen;
  for (const Linear* linear : linears) {
    const auto kind = std::tuple(linear->n(), linear->k(), linear->dtype(), linear->pattern().to_string());
    if (!seen.insert(kind).second) continue;
    const DType out = linear == linears.back() ? DType::kF32 : DType::kBF16;
    for (const std::int64_t m : ms) {
      const Choice choice = linear->choice(m, out);
      text += fmt::format("{} and its like: {} {} N={} K={} M={}: {}{}\n", linear->name(),
                          dtype_word(linear->dtype()), linear->pattern().to_string(), linear->n(),
                          linear->k(), m, choice.kernel.name, choice.kernel.sparse ? "" : ", DENSE");
      text += fmt::format("  chosen: {}\n", choice.reason);
      if (choice.seconds > 0) {
        if (!limits) limits = measure_machine_limits();
        text += fmt::format("  {:.1f} us, {:.0f} % of the limit\n", 1e6 * choice.seconds,
                            100 * seconds_at_limit(*linear, m, out, *limits) / choice.seconds);
      }
      if (!choice.runner_up.empty())
        text += fmt::format("  runner-up: {}, {:.1f} us\n", choice.runner_up, 1e6 * choice.runner_up_seconds);
      for (const std::string& other : choice.others) text += fmt::format("  not {}\n", other);
    }
  }
  return text;
}

void print_explanation(const LinearCommand& command, const Model& model, std::span<const std::int64_t> ms) {
  if (command.explain) fmt::print(stderr, "{}", explain_linears(model, ms));
}

}  // namespace slidesparse
