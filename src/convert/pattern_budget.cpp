#include "convert/pattern_budget.h"

#include <algorithm>
#include <map>

#include "core/fail.h"
#include "core/text.h"

namespace slidesparse {
namespace {

struct Candidate {
  Pattern pattern;
  double speed = 1;
};

// Dense, then the patterns from few zeros to many.
std::vector<Candidate> candidates_of(const Sensitivities& sensitivities, const GroupSensitivity& group,
                                     const SpeedRatios& ratios) {
  std::vector<Candidate> result{{Pattern(), 1}};
  if (group.skipped) return result;
  std::int64_t sparse = 0;  // split: channels of the candidate before
  for (const Pattern& pattern : sensitivities.patterns) {
    const double speed = ratios.of(pattern, sensitivities.layout);
    if (sensitivities.layout == PackedLayout::kSplit) {
      const std::int64_t channels = split_shape(pattern, group.k).sparse;
      if (channels == sparse) {
        result.back().speed = std::min(result.back().speed, speed);
        continue;
      }
      sparse = channels;
    }
    result.push_back({pattern, speed});
  }
  return result;
}

}  // namespace

PatternBudget choose_patterns(const Sensitivities& sensitivities, const SpeedRatios& ratios, double target) {
  std::vector<BudgetGroup> groups;
  std::vector<std::vector<Candidate>> candidates;
  for (std::size_t g = 0; g < sensitivities.groups.size(); ++g) {
    const GroupSensitivity& group = sensitivities.groups[g];
    candidates.push_back(candidates_of(sensitivities, group, ratios));
    BudgetGroup budget{static_cast<double>(group.rows) * static_cast<double>(group.k), {}};
    for (const Candidate& candidate : candidates.back())
      budget.candidates.push_back({sensitivities.expected_loss(g, candidate.pattern), candidate.speed});
    groups.push_back(std::move(budget));
  }
  const double most = speed_range(groups).most;
  if (!(target >= 1 && target <= most * (1 + 1e-12))) {
    fail(ErrorKind::kUsage,
         "--target-speed {}: patterns of layout {} reach 1 to {:.4f} times dense here, by the speeds of {}; "
         "take a target in between, another --layout, or --speeds of your card",
         target, packed_layout_name(sensitivities.layout), most, printable(ratios.source, 400));
  }
  const BudgetAssignment assignment = assign_budget(groups, target);
  PatternBudget result;
  result.target = target;
  result.speed = assignment.speed;
  result.loss = assignment.loss;
  result.speeds = ratios.source;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const Candidate& chosen = candidates[g][assignment.candidates[g]];
    const GroupSensitivity& group = sensitivities.groups[g];
    const PackedLayout layout = chosen.pattern.is_dense() ? PackedLayout::kSlide : sensitivities.layout;
    result.groups.push_back({group.name, chosen.pattern, layout, group.rows * group.k,
                             sensitivities.expected_loss(g, chosen.pattern), group.skipped});
  }
  return result;
}

void apply_budget(const PatternBudget& budget, ConvertOptions& options) {
  std::map<std::string, std::int64_t> weights;
  for (const PatternBudget::Group& group : budget.groups) {
    if (!group.pattern.is_dense()) weights[group.pattern.to_string()] += group.weights;
  }
  const auto most = std::ranges::max_element(weights, {}, [](const auto& item) { return item.second; });
  options.rules.clear();
  if (most == weights.end()) {
    options.pattern = Pattern();
    options.layout = PackedLayout::kSlide;
    return;
  }
  options.pattern = Pattern::parse(most->first);
  for (const PatternBudget::Group& group : budget.groups) {
    if (group.skipped || group.pattern == options.pattern) continue;
    options.rules.push_back(
        {group.name, group.pattern, group.layout,
         fmt::format("--target-speed {}: expected loss {:.6f} nats a token", budget.target, group.loss)});
  }
}

std::filesystem::path sensitivities_path(const ConvertOptions& options) {
  if (!options.sensitivities.empty()) return options.sensitivities;
  std::string target = options.target.string();
  while (target.size() > 1 && target.back() == '/') target.pop_back();
  return target + ".sensitivities.json";
}

PatternBudget budget_of(const ModelDirectory& source, const ModelConfig& config,
                        const ConvertOptions& options, const CalibrationSource& calibration) {
  if (!needs_calibration(options.method)) {
    fail(ErrorKind::kUsage,
         "--target-speed: patterns are chosen by what pruning does on calibration text, which --method {} "
         "does not look at; use wanda or sparsegpt",
         prune_method_name(options.method));
  }
  if (!options.pattern.is_dense() || !options.rules.empty()) {
    fail(ErrorKind::kUsage,
         "--target-speed chooses the patterns itself: leave --pattern out; --skip keeps linears dense");
  }
  const SpeedRatios ratios =
      options.speeds.empty() ? default_speed_ratios() : read_speed_ratios(options.speeds);
  Sensitivities plan = plan_sensitivities(source, config, options, ratios);
  choose_patterns(plan, ratios, *options.target_speed);  // is it in reach?
  const std::filesystem::path file = sensitivities_path(options);
  return choose_patterns(measure_sensitivities(std::move(plan), source, config, options, calibration, file),
                         ratios, *options.target_speed);
}

}  // namespace slidesparse
