#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "convert/calibrated_run.h"
#include "convert/convert.h"
#include "convert/report.h"
#include "convert/sensitivity.h"
#include "convert/speed_ratios.h"
#include "prune/budget.h"

namespace slidesparse {

// Name of the sensitivities in a directory that was converted with --target-speed.
inline constexpr const char* kSensitivitiesFile = "slidesparse_sensitivities.json";

// The pattern of each fused group that brings all of them together to `target` times the dense speed at the
// least expected loss (prune/budget.h). The dense time of a group is taken as its multiplications, rows * k
// a token, and candidates are dense and the patterns of the sensitivities, at their speeds in `ratios`; so
// the speed is that of predicted_speed(). Patterns that come out the same in a group (split: as many sparse
// channels) count with the slowest one's speed. Throws kUsage for a target out of reach, with the range.
PatternBudget choose_patterns(const Sensitivities& sensitivities, const SpeedRatios& ratios, double target);

// The choice as patterns by name, which everything else works on: the pattern that most weights have (dense
// only when all have it) becomes the default, others are rules.
void apply_budget(const PatternBudget& budget, ConvertOptions& options);

// What convert_model() does for ConvertOptions::target_speed: measures what is not in the file of
// sensitivities yet, and chooses. The file is options.sensitivities, or TARGET.sensitivities.json. Throws
// kUsage for methods that do not calibrate, patterns that are given besides, and targets out of reach, before
// anything is measured.
PatternBudget budget_of(const ModelDirectory& source, const ModelConfig& config,
                        const ConvertOptions& options, const CalibrationSource& calibration);
std::filesystem::path sensitivities_path(const ConvertOptions& options);

}  // namespace slidesparse
