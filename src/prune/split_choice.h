#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "slidesparse/format/split.h"

namespace slidesparse {

// How hard to look for a better split.
struct SplitSearch {
  int rounds = 200;          // of exchanges, each over all channels; 0: the rule alone
  std::int64_t rows = 1024;  // at most this many evenly spread rows are looked at while exchanging
};

struct SplitChoice {
  std::vector<std::int32_t> perm;  // [k], docs/format.md "Split"
  double rule_cost = 0;            // summed cost of the dropped weights under the rule, looked-at rows only
  double cost = 0;                 // and after the exchanges
  int rounds = 0;                  // that found something
};

// Which channels of a fused input become 2:4, and which four form a quad, for weights w [rows, k] (stride
// ld). The cost of dropping weight (r, c) is w^2 * saliency[c]; empty: w^2 (magnitude), second moments
// (Wanda), or 1 / (H^-1)_cc (SparseGPT). The rule: the channels whose summed cost is least, quads in that
// order. Then exchanges of two channels, between quads or between a quad and the dense part, as long as the
// sum over rows and quads of the two cheapest weights, which are those that 2:4 drops, falls. Deterministic.
SplitChoice choose_split(const SplitShape& shape, const float* w, std::int64_t rows, std::int64_t ld,
                         std::span<const float> saliency, const SplitSearch& search = {});

}  // namespace slidesparse
