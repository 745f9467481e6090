#pragma once

#include <functional>

#include "sweep/messages.h"

namespace slidesparse {

// Converts the cell's model - random weights of a known shape, written once below `setup.work` and left there
// for the next cell, or a directory - and deletes the result once its bytes, time and SHA-256 are known.
// `loading` as in ModelRunner. Throws Error for what cannot be done.
void run_convert_cell(const WorkerSetup& setup, const Cell& cell, const std::function<void(bool)>& loading,
                      CellResult& result);

}  // namespace slidesparse
