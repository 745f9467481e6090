#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/packed_directory.h"
#include "prune/prune.h"
#include "slidesparse/format/pattern.h"

namespace slidesparse {

inline constexpr const char* kReportFile = "slidesparse_report.json";

// What became of one linear layer.
struct LayerReport {
  std::string name;   // "model.layers.3.mlp.up_proj"
  std::string group;  // fused group that shares its fate; empty for the head
  Pattern pattern;
  PackedLayout layout = PackedLayout::kSlide;
  std::string reason;  // why it differs from the rest of the directory; empty when it does not
  std::int64_t rows = 0;
  std::int64_t k = 0;
  PruneReport prune;          // energy: sum of squared weights (codes times scale for W8A8 sources)
  std::int64_t eps_rows = 0;  // rows whose scale is eps because they are all (nearly) zero
  std::int64_t negative_zeros_dropped = 0;  // -0.0 values that come back as +0.0
  // Of the fused group, on the calibration text: change of the outputs over the outputs, in squares, with the
  // dropped weights only set to zero, and as written (before quantisation); -1: nothing is known.
  double error_masked = -1;
  double error = -1;
  double dampening = 0;            // SparseGPT: that was needed
  std::int64_t dead_channels = 0;  // inputs that were zero in all of the calibration text

  double zeros_share() const;   // of the weights, after pruning
  double energy_share() const;  // kept; 1 for a matrix of zeros
};

// Patterns that were chosen for a speed (pattern_budget.h).
struct PatternBudget {
  struct Group {
    std::string name;  // "model.layers.3.mlp.gate_up"
    Pattern pattern;
    PackedLayout layout = PackedLayout::kSlide;
    std::int64_t weights = 0;
    double loss = 0;       // expected, nats a token
    bool skipped = false;  // --skip
  };
  double target = 1;   // over dense
  double speed = 1;    // predicted, over dense
  double loss = 0;     // sum of those of the groups
  std::string speeds;  // SpeedRatios::source
  std::vector<Group> groups;
};

struct ConvertReport {
  std::vector<LayerReport> layers;  // in the model's order
  std::string source_sha256;
  std::int64_t source_bytes = 0;   // tensors
  std::int64_t target_bytes = 0;   // tensors
  std::int64_t resumed_items = 0;  // found finished from an earlier run
  double seconds = 0;
  std::optional<PatternBudget> budget;

  PruneReport total() const;
};

// One line of JSON and back: what the journal keeps. Numbers survive exactly.
std::string layer_report_to_json(const LayerReport& layer);
LayerReport layer_report_from_json(std::string_view json);

// The content of slidesparse_report.json: depends on the result only, not on the run.
std::string report_to_json(const ConvertReport& report);
ConvertReport report_from_json(std::string_view json, const std::string& file);
// For people: a line per kind of linear (share of zeros, of energy kept, the worst layer) and the totals.
std::string report_to_text(const ConvertReport& report);

}  // namespace slidesparse
