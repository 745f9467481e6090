#pragma once

#include "sweep/messages.h"

namespace slidesparse {

// Cells of single linears, those of one layer of the model. Throw Error for what cannot be done.

// Measures every kernel of the cell's problems and puts them into the cache of `setup`.
void run_tune_cell(const WorkerSetup& setup, const Cell& cell, CellResult& result);
// Times what the cache of `setup` chooses, each output checked: sums over the linears.
void run_gemm_cell(const WorkerSetup& setup, const Cell& cell, CellResult& result);

}  // namespace slidesparse
