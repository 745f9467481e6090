#pragma once

#include <optional>

#include "report/document.h"
#include "report/tables.h"

namespace slidesparse {

// Speed over dense by M, a plot a model, for a section of prefill, decode or gemm; nothing without ratios.
std::optional<PlotGrid> speed_plots(const ReportView& view, const Section& section);
// Bytes of weights and the largest peak, a plot for each model and dtype; nothing where no cell says its
// bytes.
std::optional<PlotGrid> memory_plots(const ReportView& view);
// Perplexity against the geometric mean of prefill's ratios, a plot for each model and dtype; nothing without
// both.
std::optional<PlotGrid> accuracy_plots(const ReportView& view);

}  // namespace slidesparse
