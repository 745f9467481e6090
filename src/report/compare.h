#pragma once

#include <cstddef>
#include <vector>

#include "report/document.h"
#include "report/tables.h"

namespace slidesparse {

// A cell that both databases have, and how the main figures compare.
struct ComparedCell {
  std::size_t here = 0, there = 0;  // indices into the cells of each
  Ratio ratio;                      // here over there
  bool changed = false;             // the ranges are known and do not meet
};

struct Comparison {
  std::vector<ComparedCell> both;             // measured in both
  std::vector<std::size_t> gained, lost;      // in both, measured here only; there only (indices here)
  std::vector<std::size_t> unlike;            // measured in both, after different changes by a retry
  std::size_t only_here = 0, only_there = 0;  // cells that the other database lacks
};

// Cells are the same if their keys are.
Comparison compare_results(const Results& here, const Results& there);

std::vector<Block> comparison_blocks(const ReportView& view, const Results& there,
                                     const Comparison& comparison);

}  // namespace slidesparse
