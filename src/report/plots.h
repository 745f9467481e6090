#pragma once

#include <optional>
#include <vector>

#include "report/document.h"
#include "report/tables.h"

namespace slidesparse {

// Speed over dense by M, a plot a model, for a section of prefill, decode or gemm; nothing without ratios.
std::optional<PlotGrid> speed_plots(const ReportView& view, const Section& section);
// Bytes of weights and peaks, a plot for each model and dtype, and a table; nothing where no cell says its
// bytes.
std::vector<Block> memory_blocks(const ReportView& view);
// Perplexity against the geometric mean of prefill's ratios, a plot for each model and dtype, and a table;
// nothing without both.
std::vector<Block> accuracy_blocks(const ReportView& view);

}  // namespace slidesparse
