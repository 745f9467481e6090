#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "prune/prune.h"
#include "prune/split_choice.h"
#include "slidesparse/format/pattern.h"

namespace slidesparse {

// How the linears that read one input are pruned together.
struct GroupPrune {
  PruneMethod method = PruneMethod::kMagnitude;  // not kNone
  Pattern pattern;                               // not dense
  bool split = false;                            // layout split: the pattern's budget, channels chosen
  double dampening = 0.01;                       // SparseGPT: factor_inverse()
  int refits = 10;                               // SparseGPT: steps of refit_weights()
  bool round_to_fp8 = false;                     // SparseGPT: obs_round() of what is kept
  SplitSearch search;
};

struct GroupPruneResult {
  std::vector<std::int32_t> perm;  // split: [k]; else empty
  // Change of the outputs over the outputs, as sums of squares over calibration tokens: when the dropped
  // weights are only set to zero, and with what the method changed besides, before any rounding. -1: no
  // statistics. Wanda knows the inputs' squares only and takes them for uncorrelated.
  double error_masked = -1;
  double error = -1;
  double dampening = 0;   // that was needed
  std::int64_t dead = 0;  // input channels that were zero in all calibration tokens
};

// Prunes w [rows, k] (contiguous) in place: the rows of all linears that share an input. second_moments:
// empty for magnitude, [k] for Wanda (arXiv 2306.11695: keeps the largest |w| * norm of the input channel),
// lower triangle of [k, k] for SparseGPT (arXiv 2301.00774): the upper one is overwritten. Throws kInput
// (`what`) for moments that are not finite.
GroupPruneResult prune_group(const GroupPrune& prune, float* w, std::int64_t rows, std::int64_t k,
                             std::span<float> second_moments, const std::string& what);

}  // namespace slidesparse
