#include "sweep/estimate.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/fail.h"
#include "engine/bench_model.h"
#include "model/weights.h"
#include "sweep/plan.h"

namespace slidesparse {
namespace {

// Rates that a first guess is made with, roughly a Hopper card and two cores with AVX-512.
struct Rates {
  double ops, bytes;  // a second, of a step
  double step;        // seconds that every step takes
  double start;       // seconds of a cell besides its steps
  double generated;   // weights a second
  double problem;     // seconds of a tuned problem
};
constexpr Rates kCard{5e14, 3e12, 2e-4, 1.0, 1e9, 0.5};
constexpr Rates kCpu{5e11, 2e10, 1e-3, 0.2, 1e8, 2.0};
constexpr double kConverted = 5e7;   // weights a second
constexpr double kEvalTokens = 3e5;  // of a text of the usual size
constexpr double kSharedBy = 10;     // cells that share what a process loads
constexpr double kLinears = 4;       // of a layer
constexpr double kUnknownWeights = 1e9;

double weights_of(const std::string& model) {
  try {
    double weights = 0;
    for (const FusedGroup& group : weight_table(shape_of_model(model)).groups) {
      for (const LinearSpec& linear : group.members)
        weights += static_cast<double>(linear.n) * static_cast<double>(linear.k);
    }
    return weights;
  } catch (const Error&) {
    return kUnknownWeights;  // its cells will say what is wrong with it
  }
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::string phase_key(const Cell& cell) {
  return std::string(phase_name(cell.phase));
}

std::string model_key(const Cell& cell) {
  return phase_key(cell) + " " + cell.model;
}

}  // namespace

void Estimator::learn(const Cell& cell, double seconds) {
  measured_[cell_key(cell)] = seconds;
  const double ratio = seconds / rule(cell);
  ratios_[phase_key(cell)].push_back(ratio);
  ratios_[model_key(cell)].push_back(ratio);
}

double Estimator::seconds(const Cell& cell) const {
  if (const auto found = measured_.find(cell_key(cell)); found != measured_.end()) return found->second;
  for (const std::string& key : {model_key(cell), phase_key(cell)}) {
    if (const auto found = ratios_.find(key); found != ratios_.end())
      return rule(cell) * median(found->second);
  }
  return rule(cell);
}

double Estimator::rule(const Cell& cell) const {
  const Rates& rates = card_ ? kCard : kCpu;
  const auto known = weights_.find(cell.model);
  const double weights = known != weights_.end()
                             ? known->second
                             : weights_.emplace(cell.model, weights_of(cell.model)).first->second;
  const CellOptions& options = cell.options;
  const auto m = static_cast<double>(cell.m.value_or(1));
  const auto runs = static_cast<double>(options.runs.value_or(1));
  const auto steps = static_cast<double>(options.steps.value_or(1));
  const double step = std::max(2 * weights * m / rates.ops, weights / rates.bytes) + rates.step;
  const double load = rates.start + weights / rates.generated / kSharedBy;
  switch (cell.phase) {
    case Phase::kConvert:
      return rates.start + weights / kConverted + weights / rates.generated / kSharedBy;
    case Phase::kTune:
      return rates.start + kLinears * static_cast<double>(options.m.size()) * rates.problem;
    case Phase::kGemm:
      return rates.start + kLinears * 2 * options.min_seconds.value_or(0.5);
    case Phase::kPrefill:
      return load + step + std::max(runs * step, options.min_seconds.value_or(0));
    case Phase::kDecode:
      return load + (runs * steps + std::min(steps, static_cast<double>(kWarmUpSteps))) * step;
    case Phase::kEval:
      return load + 2 * weights * kEvalTokens / rates.ops;
  }
  return load;
}

std::string duration_words(double seconds) {
  const auto whole = std::llround(seconds);
  if (whole < 100) return fmt::format("{} s", whole);
  if (whole < 6000) return fmt::format("{} min", (whole + 30) / 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::optional<double> parse_duration(std::string_view text) {
  constexpr double kMost = 366.0 * 24 * 3600;
  double number = 0;
  const auto parsed =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (parsed.ec != std::errc() || parsed.ptr + 1 != text.data() + text.size()) return {};
  const double unit = *parsed.ptr == 's' ? 1 : *parsed.ptr == 'm' ? 60 : *parsed.ptr == 'h' ? 3600 : 0;
  const double seconds = number * unit;
  return seconds > 0 && seconds <= kMost ? std::optional(seconds) : std::nullopt;
}

}  // namespace slidesparse
