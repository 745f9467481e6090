#include "convert/sensitivity.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "convert/convert_plan.h"
#include "convert/pruned_group.h"
#include "core/fail.h"
#include "core/interrupt.h"
#include "core/log.h"
#include "core/progress.h"
#include "core/text.h"
#include "io/file_writer.h"
#include "io/json.h"
#include "model/loss_probe.h"
#include "model/weights.h"

namespace slidesparse {
namespace {

// Tokens at which predictions are compared: the head costs as much as several layers.
constexpr std::int64_t kPositions = 512;
// Layers in which the errors of all patterns are measured: their ratios hardly differ between layers.
constexpr std::int64_t kErrorLayers = 4;

bool has_all_errors(std::int64_t layer, std::int64_t layers) {
  const std::int64_t count = std::min(layers, kErrorLayers);
  for (std::int64_t i = 0; i < count; ++i) {
    if (layer == (2 * i + 1) * layers / (2 * count)) return true;
  }
  return false;
}

double ratio_of(const GroupSensitivity& group, Pattern pattern, Pattern reference) {
  const auto error = group.errors.find(pattern.to_string());
  const auto base = group.errors.find(reference.to_string());
  if (error == group.errors.end() || base == group.errors.end()) return 0;
  return base->second > 0 && error->second > 0 ? error->second / base->second : 0;
}

// All groups in one pattern, but for those that are skipped.
ConvertOptions uniform_options(ConvertOptions options, Pattern pattern) {
  options.pattern = pattern;
  options.rules.clear();
  return options;
}

class SensitivityRun {
 public:
  SensitivityRun(Sensitivities plan, const ModelDirectory& source, const ModelConfig& config,
                 const ConvertOptions& options, const CalibrationSource& calibration,
                 const CalibrationText& text, const std::filesystem::path& file)
      : result_(std::move(plan)),
        source_(source),
        options_(options),
        calibration_(calibration),
        file_(file),
        config_(config),
        table_(weight_table(config)),
        probe_(config, source.path(), text.held_out, text.held_out_length, kPositions) {
    if (!calibration.statistics)
      calibrator_.emplace(config, source.path(), text.tokens, options.calibration.sample_length);
    for (const Pattern& pattern : result_.patterns)
      plans_.push_back(plan_conversion(source, config, uniform_options(options, pattern)));
  }

  Sensitivities run(std::int64_t first_layer) {
    Progress progress("sensitivities", config_.layers * kGroupsPerLayer, Progress::Unit::kItems,
                      options_.quiet);
    progress.skip(first_layer * kGroupsPerLayer);
    std::size_t next = 0;  // in the plans' linears
    for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
      const double rounding = layer < first_layer ? 0 : probe_.rounding();
      for (int place = 0; place < kGroupsPerLayer; ++place) {
        const auto g = static_cast<std::size_t>(layer * kGroupsPerLayer + place);
        const std::size_t first = next;
        group_tasks(plans_.front(), next);
        if (layer < first_layer) {
          if (calibrator_) calibrator_->collect({});
          continue;
        }
        progress.set_detail(result_.groups[g].name);
        const std::vector<float> moments = moments_of(table_.groups[g], result_.groups[g].skipped);
        if (!result_.groups[g].skipped) {
          result_.groups[g].rounding = rounding;
          measure(g, place, first, moments);
        }
        progress.advance(1);
      }
      if (calibrator_) calibrator_->end_layer();
      probe_.end_layer();
      if (layer >= first_layer) keep(layer + 1);
    }
    return std::move(result_);
  }

 private:
  std::vector<float> moments_of(const FusedGroup& group, bool skipped) {
    const bool full = options_.method == PruneMethod::kSparseGpt;
    std::vector<float> moments;
    if (calibrator_) {
      const std::int64_t k = group.members.front().k;
      if (!skipped) moments.resize(static_cast<std::size_t>(full ? k * k : k));
      calibrator_->collect(moments);
    } else if (!skipped) {
      moments = calibration_.statistics->read(group, full);
    }
    return moments;
  }

  void measure(std::size_t g, int place, std::size_t first, const std::vector<float>& moments) {
    GroupSensitivity& group = result_.groups[g];
    const std::int64_t layer = static_cast<std::int64_t>(g) / kGroupsPerLayer;
    for (std::size_t p = 0; p < plans_.size(); ++p) {
      const bool reference = result_.patterns[p] == result_.reference;
      if (!reference && !has_all_errors(layer, config_.layers)) continue;
      check_interrupt("the sensitivities of finished layers are kept: run the same command again to go on");
      std::size_t next = first;
      const auto tasks = group_tasks(plans_[p], next);
      require(tasks.front().group == group.name, "{} is planned where {} is tried", tasks.front().group,
              group.name);
      std::vector<float> copy = moments;  // pruning works in place
      GroupPrune prune = group_prune(options_, tasks.front());
      prune.round_to_fp8 = false;  // what is measured is pruning, for any dtype
      const PrunedGroup pruned = prune_source_group(source_, tasks, prune, copy);
      group.errors[result_.patterns[p].to_string()] = pruned.result.error;
      if (!reference) continue;
      std::vector<const std::uint16_t*> weights;
      for (const PrunedGroup::Member& member : pruned.members) weights.push_back(member.as_bf16());
      group.divergence = probe_.divergence(static_cast<GroupInput>(place), weights);
    }
  }

  // Only whole layers are in the file.
  void keep(std::int64_t layers) {
    Sensitivities finished = result_;
    finished.groups.resize(static_cast<std::size_t>(layers * kGroupsPerLayer));
    write_file_atomically(file_, sensitivities_to_json(finished));
  }

  Sensitivities result_;
  const ModelDirectory& source_;
  const ConvertOptions& options_;
  const CalibrationSource& calibration_;
  const std::filesystem::path file_;
  const ModelConfig config_;
  const WeightTable table_;
  LossProbe probe_;
  std::optional<Calibrator> calibrator_;  // where no statistics are at hand
  std::vector<ConvertPlan> plans_;        // a pattern
};

// The keys whose values differ, for a message.
std::string differences(const Json& there, const Json& wanted) {
  std::vector<std::string> names;
  for (const auto& item : wanted.items()) {
    const auto found = there.find(item.key());
    if (found == there.end() || *found != item.value()) {
      names.push_back(fmt::format("{} ({}, here {})", item.key(),
                                  found == there.end() ? "none" : printable(found->dump(), 200),
                                  printable(item.value().dump(), 200)));
    }
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

Json identity_of(const Sensitivities& plan, const ConvertOptions& options,
                 const CalibrationSource& calibration, const std::string& text) {
  Json patterns = Json::array();
  for (const Pattern& pattern : plan.patterns) patterns.push_back(pattern.to_string());
  return {{"model", calibration.origin.fingerprint},
          {"method", prune_method_name(options.method)},
          {"dampening", options.dampening},
          {"refits", options.refits},
          {"skip", options.skip},
          {"layout", packed_layout_name(plan.layout)},
          {"patterns", patterns},
          {"reference", plan.reference.to_string()},
          {"calibration", calibration.origin.calibration},
          {"text", text}};
}

std::string dumped(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// What an earlier run left in `file` goes into the plan; returns the layers that are finished.
// `replace`: figures of another run are no error, and count for nothing.
std::int64_t resume(Sensitivities& plan, Json identity, const std::filesystem::path& file, bool replace) {
  const std::string name = printable(file.string(), 400);
  Sensitivities there = sensitivities_from_json(read_text_file(file), name);
  const Json other = parse_json(there.identity, name);
  // Without a text at hand the one that was used is as good as any.
  if (json_string(identity, "text", name).empty()) identity["text"] = json_string_or(other, "text", name, "");
  if (there.identity != dumped(identity)) {
    if (replace) return 0;
    fail_input(
        "{}: sensitivities of another run, which differs in {}; remove the file, or name another one with "
        "--sensitivities",
        name, differences(other, identity));
  }
  if (there.groups.size() > plan.groups.size() || there.groups.size() % kGroupsPerLayer != 0)
    fail_input("{}: {} groups, the model has {}", name, there.groups.size(), plan.groups.size());
  for (std::size_t g = 0; g < there.groups.size(); ++g) {
    const GroupSensitivity& wanted = plan.groups[g];
    if (there.groups[g].name != wanted.name || there.groups[g].rows != wanted.rows ||
        there.groups[g].k != wanted.k) {
      fail_input("{}: group {} of {} x {} where {} of {} x {} is expected", name,
                 printable(there.groups[g].name), there.groups[g].rows, there.groups[g].k, wanted.name,
                 wanted.rows, wanted.k);
    }
    plan.groups[g] = there.groups[g];
  }
  plan.identity = there.identity;
  plan.along = there.along;
  return static_cast<std::int64_t>(there.groups.size()) / kGroupsPerLayer;
}

}  // namespace

double Sensitivities::expected_loss(std::size_t g, Pattern pattern) const {
  const GroupSensitivity& group = groups[g];
  if (pattern.is_dense() || group.skipped) return 0;
  const double loss = std::max(0.0, group.divergence - group.rounding);
  if (pattern == reference) return loss;
  if (const double own = ratio_of(group, pattern, reference); own > 0) return loss * own;
  double logarithms = 0;
  int count = 0;
  for (std::size_t other = g % kGroupsPerLayer; other < groups.size(); other += kGroupsPerLayer) {
    const double ratio = ratio_of(groups[other], pattern, reference);
    if (!(ratio > 0)) continue;
    logarithms += std::log(ratio);
    ++count;
  }
  return count > 0 ? loss * std::exp(logarithms / count) : loss;
}

Sensitivities plan_sensitivities(const ModelDirectory& source, const ModelConfig& config,
                                 const ConvertOptions& options, const SpeedRatios& ratios) {
  Sensitivities plan;
  plan.layout = options.layout;
  for (const auto& [key, speed] : ratios.ratios) {
    const Pattern pattern = Pattern::parse(key.first);
    if (key.second == options.layout && !pattern.is_dense()) plan.patterns.push_back(pattern);
  }
  std::ranges::sort(plan.patterns, std::greater(), [](const Pattern& pattern) { return pattern.group(); });
  if (plan.patterns.empty()) {
    fail(ErrorKind::kUsage,
         "--target-speed: {} lists no pattern in layout {}; add some, or take another "
         "--layout",
         printable(ratios.source, 400), packed_layout_name(options.layout));
  }
  const auto six = std::ranges::find(plan.patterns, Pattern::parse("6:8"));
  plan.reference = six != plan.patterns.end() ? *six
                   : plan.patterns.size() > 1 ? plan.patterns[plan.patterns.size() - 2]
                                              : plan.patterns.front();
  const ConvertPlan uniform = plan_conversion(source, config, uniform_options(options, plan.reference));
  std::size_t next = 0;
  for (const FusedGroup& group : weight_table(config).groups) {
    GroupSensitivity sensitivity;
    sensitivity.name = group.name;
    sensitivity.k = group.members.front().k;
    for (const LinearSpec& member : group.members) sensitivity.rows += member.n;
    sensitivity.skipped = group_tasks(uniform, next).front().pattern.is_dense();
    plan.groups.push_back(std::move(sensitivity));
  }
  return plan;
}

Sensitivities measure_sensitivities(Sensitivities plan, const ModelDirectory& source,
                                    const ModelConfig& config, const ConvertOptions& options,
                                    const CalibrationSource& calibration, const std::filesystem::path& file) {
  std::optional<CalibrationText> text = calibration.text;
  if (!text && !options.calibration.text.empty())
    text = read_calibration_text(options.calibration, source.path(), config);
  const Json identity = identity_of(plan, options, calibration, text ? text->description : "");
  plan.identity = dumped(identity);
  plan.along = calibration.statistics ? calibration.origin.along : "the dense model";
  std::int64_t first_layer = 0;
  if (std::filesystem::exists(file))
    first_layer = resume(plan, identity, file, options.force && options.sensitivities.empty());
  if (first_layer == config.layers) return plan;
  if (!text) {
    fail(ErrorKind::kUsage,
         "--target-speed: statistics do not tell what pruning does to the model's predictions: give "
         "--calibration FILE too, or --sensitivities FILE of an earlier run");
  }
  const std::int64_t trials =
      LossProbe::held_bytes(config, static_cast<std::int64_t>(text->held_out.size()), kPositions);
  std::string memory = fmt::format("{} of memory for trials", format_bytes(static_cast<double>(trials)));
  if (!calibration.statistics) {
    memory = CalibratedRun::describe_memory(
        config, options, *text, plan_conversion(source, config, uniform_options(options, plan.reference)),
        trials);
  }
  if (!options.quiet) {
    spdlog::info("sensitivities: each fused group alone in {} {}, tried on {} tokens; {}",
                 plan.reference.to_string(), packed_layout_name(plan.layout), text->held_out.size(), memory);
  }
  return SensitivityRun(std::move(plan), source, config, options, calibration, *text, file).run(first_layer);
}

}  // namespace slidesparse
