#include "cli/linear_options.h"

#include <fmt/core.h>

#include <algorithm>
#include <optional>
#include <set>
#include <tuple>

#include "core/cuda/memory.h"
#include "core/cuda/status.h"
#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/text.h"
#include "gemm/machine_limits.h"

namespace slidesparse {
namespace {

// At the limit, one run would take this many seconds.
double seconds_at_limit(const LinearUse& use, const MachineLimits& limits) {
  const double ops =
      2.0 * static_cast<double>(use.m) * static_cast<double>(use.n) * static_cast<double>(use.k);
  const double peak = limits.ops_per_second(use.dtype);
  return std::max(static_cast<double>(use.weight_bytes_read) / limits.read_bytes_per_second,
                  peak > 0 ? ops / peak : 0);
}

}  // namespace

void print_memory(const Model& model) {
  if (model.device().kind != DeviceKind::kCuda) return;
  const DeviceMemoryUse use = device_memory_use();
  std::string text;
  for (const DeviceMemoryUse::Entry& entry : use.by_name) {
    if (entry.bytes > 0)
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", entry.name,
                          format_bytes(static_cast<double>(entry.bytes)));
  }
  fmt::print(stderr, "attention: {}\n", model.summary().attention);
  fmt::print(
      stderr, "card memory: {}; {} free{}\n", text, format_bytes(static_cast<double>(free_device_memory())),
      use.limit > 0 ? fmt::format(", limited to {}", format_bytes(static_cast<double>(use.limit))) : "");
}

std::int64_t parse_memory_limit_option(const std::string& text) {
  if (text.empty()) return 0;
  const std::optional<std::int64_t> limit = parse_bytes(text);
  if (!limit || *limit == 0)
    fail(ErrorKind::kUsage, "--memory-limit {}: a size such as 22.4GiB or 24GB", printable(text));
  return *limit;
}

void add_linear_options(CLI::App& app, LinearCommand& command) {
  app.add_option("--device", command.placement.device, "cpu or cuda (default: cuda where there is a card)");
  app.add_option("--backend", command.placement.backends, "Backends to use, best first (see info)")
      ->delimiter(',');
  app.add_option("--cache", command.placement.cache,
                 "File that `tune` wrote: kernels are chosen by its times (default: on a card "
                 "$XDG_CACHE_HOME/slidesparse/tuning.json if it is there, else by rule)");
  app.add_option(
         "--weights", command.placement.weights,
         "On a card: forms of the weights that stay there: smallest (one), balanced (one), fastest (any)")
      ->capture_default_str();
  app.add_option("--attention", command.placement.attention,
                 "On a card, for whole prompts: auto (cuDNN where it is there) or own")
      ->capture_default_str();
  app.add_option(
      "--head", command.placement.head,
      "Output head: bf16, int8 or fp8; a bf16 one is quantised when it is loaded (default: as it is "
      "stored, bf16 of random weights)");
  app.add_option("--memory-limit", command.memory_limit,
                 "On a card: behave as if it had only so much memory, 22.4GiB for example");
  app.add_flag("--explain", command.explain,
               "Say on standard error which kernels run, why, and why not others");
}

ModelOptions model_options(const LinearCommand& command, std::vector<std::int64_t> ms) {
  Placement placement = command.placement;
  placement.memory_limit = parse_memory_limit_option(command.memory_limit);
  return model_options(placement, std::move(ms));
}

std::string explain_linears(const Model& model, std::span<const std::int64_t> ms) {
  std::optional<MachineLimits> limits;  // measured when there is a time to compare with
  std::string text;
  std::set<std::tuple<std::int64_t, std::int64_t, DType, std::string>> seen;
  std::vector<std::vector<LinearUse>> uses;  // by M
  for (const std::int64_t m : ms) uses.push_back(model.linears_at(m, m));
  for (std::size_t i = 0; i < uses.front().size(); ++i) {
    const LinearUse& linear = uses.front()[i];
    if (!seen.insert({linear.n, linear.k, linear.dtype, linear.pattern.to_string()}).second) continue;
    for (const std::vector<LinearUse>& at_m : uses) {
      const LinearUse& use = at_m[i];
      const Choice& choice = use.choice;
      text += fmt::format("{} and its like: {} {} N={} K={} M={}: {}{}\n", use.name, dtype_word(use.dtype),
                          use.pattern.to_string(), use.n, use.k, use.m, choice.kernel.name,
                          choice.kernel.sparse ? "" : ", DENSE");
      text += fmt::format("  chosen: {}\n", choice.reason);
      if (choice.seconds > 0) {
        if (!limits) limits = measure_limits(model.device().kind);
        text += fmt::format("  {:.1f} us, {:.0f} % of the limit\n", 1e6 * choice.seconds,
                            100 * seconds_at_limit(use, *limits) / choice.seconds);
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
