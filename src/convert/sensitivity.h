#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "convert/calibrated_run.h"
#include "convert/convert.h"
#include "convert/speed_ratios.h"
#include "io/model_directory.h"
#include "model/config.h"

namespace slidesparse {

// What pruning one fused group alone does to the model's predictions.
struct GroupSensitivity {
  std::string name;       // "model.layers.3.mlp.gate_up"
  std::int64_t rows = 0;  // of all members
  std::int64_t k = 0;
  bool skipped = false;  // --skip: stays dense, nothing is measured
  // Nats a token: LossProbe::divergence() with the reference pattern, and LossProbe::rounding() of its layer.
  double divergence = 0;
  double rounding = 0;
  // GroupPruneResult::error by pattern: of the reference in every group, of the others in some layers.
  std::map<std::string, double> errors;
};

struct Sensitivities {
  std::string identity;  // JSON: everything that the figures depend on
  std::string along;     // StatisticsOrigin::along of the moments; figures along other prunings serve as well
  PackedLayout layout = PackedLayout::kSlide;
  std::vector<Pattern> patterns;         // fewest zeros first
  Pattern reference;                     // one of them
  std::vector<GroupSensitivity> groups;  // in the model's order, kGroupsPerLayer a layer

  // Nats a token that group g costs in a pattern: divergence without rounding's part for the reference, times
  // the ratio of the relative output errors for the others (the divergence is quadratic in a small change of
  // the outputs, as the error is). The ratio is the group's own where it was measured, else the geometric
  // mean over the groups of its kind (down, ...) where it was. Dense: 0.
  double expected_loss(std::size_t g, Pattern pattern) const;
};

// The groups of a model with nothing measured: patterns of `layout` that `ratios` lists, for a reference 6:8
// where it is one of them, else the one with the second most zeros. Throws kUsage when there is none, and as
// plan_conversion() does.
Sensitivities plan_sensitivities(const ModelDirectory& source, const ModelConfig& config,
                                 const ConvertOptions& options, const SpeedRatios& ratios);

// Measures what `plan` lacks: each group of the model is pruned alone with the reference pattern, by the
// method and moments of the conversion (or, when these are still to be collected, moments along the dense
// model), and the model tried on tokens of the calibration text that the moments do not come from. What is
// measured is written to `file` after every layer, and read from it by a next run. Throws kInput for a file
// of other figures (with --force and no --sensitivities it is replaced) and for too little memory, kUsage
// when text is needed and options name none.
Sensitivities measure_sensitivities(Sensitivities plan, const ModelDirectory& source,
                                    const ModelConfig& config, const ConvertOptions& options,
                                    const CalibrationSource& calibration, const std::filesystem::path& file);

// The content of such a file, and back. Throws kInput, naming `file`, for what is none.
std::string sensitivities_to_json(const Sensitivities& sensitivities);
Sensitivities sensitivities_from_json(const std::string& text, const std::string& file);

}  // namespace slidesparse
