#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "convert/calibration_text.h"
#include "convert/convert.h"
#include "convert/convert_plan.h"
#include "convert/directory_job.h"
#include "convert/pruned_group.h"
#include "convert/statistics.h"
#include "core/progress.h"
#include "model/calibrator.h"
#include "model/config.h"

namespace slidesparse {

// Where the second moments of a conversion come from, settled before anything is written.
struct CalibrationSource {
  std::optional<CalibrationText> text;         // to run the model on
  std::optional<StatisticsReader> statistics;  // or moments that were collected before
  bool write_statistics = false;               // to ConvertOptions::statistics
  StatisticsOrigin origin;

  bool wanted() const { return text || statistics; }
};

// Reads the text or opens the statistics that options name. Throws kUsage for a method that needs them
// without either, and for either without such a method.
CalibrationSource open_calibration(const ConvertOptions& options, const ModelDirectory& source,
                                   const ModelConfig& config);

// In words, what is pruned how before an input is seen: StatisticsOrigin::along.
std::string pruned_along(const ConvertOptions& options);

// The options of prune_group() for one linear's group.
GroupPrune group_prune(const ConvertOptions& options, const LinearTask& task);

// Runs the calibration text through the model, pruning group after group. The residual stream is kept in the
// unfinished target after each layer, so that a run that was killed loses at most one. Activations and one
// group's matrices are in memory.
class CalibratedRun {
 public:
  CalibratedRun(const ModelDirectory& source, const ModelConfig& config, const ConvertOptions& options,
                const CalibrationSource& calibration, const ConvertPlan& plan, DirectoryJob& job);

  // Bytes that it takes at most, and what for: said before starting. Throws kInput when they are not free.
  // `trials`: bytes that are held besides.
  static std::string describe_memory(const ModelConfig& config, const ConvertOptions& options,
                                     const CalibrationText& text, const ConvertPlan& plan,
                                     std::int64_t trials = 0);

  // Layers that an earlier run finished.
  std::int64_t first_layer() const { return first_layer_; }
  // Prunes the groups of the model in order from first_layer() on. `write` is called for each group with its
  // tasks, and null when it is not pruned; `layer_done` when all groups of a layer are written: it makes them
  // durable, and returns only then.
  void run(const std::function<void(std::span<const LinearTask>, const PrunedGroup*)>& write,
           const std::function<void()>& layer_done);

 private:
  void restore();
  void save(std::int64_t layer);

  const ModelDirectory& source_;
  const ModelConfig& config_;
  const ConvertOptions& options_;
  const CalibrationText& text_;
  const ConvertPlan& plan_;
  DirectoryJob& job_;
  WeightTable table_;
  Calibrator calibrator_;
  std::optional<StatisticsWriter> writer_;
  std::int64_t first_layer_ = 0;
};

}  // namespace slidesparse
