#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "report/results.h"

namespace slidesparse {

// One figure over another. The range is low over high and high over low; without percentiles it is the ratio.
struct Ratio {
  double value = 1;
  double low = 1;
  double high = 1;
  bool spread = false;              // both figures have percentiles
  std::optional<std::size_t> base;  // index of the cell that is divided by, where it is one of these results
};

enum class Verdict { kFaster, kSlower, kWithinSpread };
// Whether all of the range is above or below 1.
Verdict verdict(const Ratio& ratio);

Ratio ratio_of(const Figure& figure, const Figure& base);

// What the cells of one workload share, beyond phase, model, dtype and M: "prompt=16 steps=256", in the words
// of the plan. Runs, seed and forms of the weights are how it was measured, not what.
std::string workload(const ReportCell& cell);

// For each cell its speed over that of the fastest dense cell of the same phase, model, dtype, M, memory
// limit and workload on the same machine, measured with the same changes (unlike_words). Nothing where one of
// the two was not measured, or the phase has no speed.
std::vector<std::optional<Ratio>> speed_ups(const Results& results);

}  // namespace slidesparse
