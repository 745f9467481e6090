#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "convert/calibration_text.h"
#include "convert/report.h"
#include "io/packed_directory.h"
#include "prune/prune.h"
#include "slidesparse/core/dtype.h"
#include "slidesparse/format/pattern.h"

namespace slidesparse {

// A pattern and layout for the linears or fused groups that a glob matches.
struct PatternRule {
  std::string glob;
  Pattern pattern;
  PackedLayout layout = PackedLayout::kSlide;
  std::string reason = {};  // for the record; empty: that the glob matches
};

struct ConvertOptions {
  std::filesystem::path source;  // a Hugging Face directory: BF16, FP16, FP32, or compressed-tensors W8A8
  std::filesystem::path target;
  Pattern pattern;               // dense quantises without pruning
  DType dtype = DType::kF8E4M3;  // I8, F8_E4M3 or BF16
  PruneMethod method = PruneMethod::kMagnitude;
  PackedLayout layout = PackedLayout::kSlide;
  std::vector<PatternRule> rules;  // exceptions; the first that matches counts
  std::vector<std::string> skip;   // globs: linears or fused groups that stay dense
  // Pattern and rules are chosen, from the patterns of `layout`, so that all linears together are predicted
  // to run at so many times the dense speed at the least expected loss (pattern_budget.h). Then pattern must
  // be dense and rules empty.
  std::optional<double> target_speed;
  std::string speeds;                   // JSON for read_speed_ratios(); empty: default_speed_ratios()
  std::filesystem::path sensitivities;  // file of what pruning groups costs: read, and what it lacks added
  // For methods that need to know the linears' inputs: text to run the model on, or a directory of
  // statistics, which is read when it is there and otherwise written.
  CalibrationOptions calibration;
  std::filesystem::path statistics;
  double dampening = 0.01;    // SparseGPT: share of the mean second moment that is added to the diagonal
  int refits = 10;            // SparseGPT: steps of conjugate gradients after the masks are settled
  DType head = DType::kBF16;  // or I8: quantised, never pruned
  // FP8: codes that make up for each other (obs_round() in prune/obs.h), not each the nearest. Unset: with
  // SparseGPT, the one method whose statistics can tell.
  std::optional<bool> gptq;
  bool force = false;
  bool quiet = false;
  std::int64_t shard_bytes = 5'000'000'000;
  std::int64_t commit_bytes = 256 << 20;
};

// Whether codes are to be chosen by GPTQ: as options.gptq says, or what is best where it says nothing.
bool uses_gptq(const ConvertOptions& options);

// Prunes, quantises and packs a model, tensor by tensor, in blocks of rows: memory does not grow with the
// model. The split layout, Wanda and SparseGPT hold one fused group at a time, and calibration the
// activations of its text (calibrated_run.h). The result is complete or not there at all; killed or
// interrupted, the same command goes on where it was and ends in the same bytes (directory_job.h). The source
// is only read. Throws Error with one line for everything that cannot be accepted: see docs/format.md,
// "Directory".
ConvertReport convert_model(const ConvertOptions& options);

}  // namespace slidesparse
