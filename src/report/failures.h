#pragma once

#include <vector>

#include "report/document.h"
#include "report/tables.h"

namespace slidesparse {

// Why cells have no figure: for each state how many, what it means and what to do, and a table with the facts
// of each cell (bytes, codes, messages). Cells that were not run are listed by model and variant.
std::vector<Block> failure_blocks(const ReportView& view);
// Checks of attempts that did not pass, and warnings of the sweep. Empty where there are none.
std::vector<Block> warning_blocks(const ReportView& view);

}  // namespace slidesparse
