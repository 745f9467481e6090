#pragma once

#include <optional>
#include <string>
#include <vector>

#include "report/document.h"
#include "report/results.h"
#include "report/sections.h"
#include "report/speed_up.h"
#include "report/words.h"

namespace slidesparse {

// What all parts of a report look at.
struct ReportView {
  const Results& results;
  const std::vector<Section>& sections;
  const std::vector<std::optional<Ratio>>& speed_ups;  // by cell
  const Words& words;
};

// "Prefill, FP8, prompt=16, 22.4 GiB" in the report's language.
std::string section_title(const Section& section, const Words& words);
// Name of a state, or the state itself where the table of words lacks it.
std::string state_name(const std::string& state, const Words& words);
// For lists: "Prefill qwen2.5-7b INT8 cusparselt 6:8".
std::string variant_name(const ReportCell& cell, const Words& words);
// A cell of a table that names one of the sweep: "cusparselt 6:8 M=512", and small "Prefill qwen2.5-7b INT8".
TableCell name_cell(const ReportCell& cell, const Words& words);

// Models down, backends and patterns across: measured/all and, small, how many of the rest are in which
// state. The last row and column add up.
ReportTable completeness_table(const ReportView& view, const Section& section);
// One model: backends and patterns down, M across: speed, and small its spread, ratio and remarks.
ReportTable speed_table(const ReportView& view, const Section& section, const std::string& model);
// For phases without M: a row a cell with its figures.
ReportTable figures_table(const ReportView& view, const Section& section);
// How the variants of a section compare with dense: cells, geometric mean, extremes, slower ones.
ReportTable overview_table(const ReportView& view, const Section& section);
// A row a cell: state, figure with range, ratio, and the command that measures it again.
ReportTable cells_table(const ReportView& view, const Section& section);

}  // namespace slidesparse
