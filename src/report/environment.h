#pragma once

#include <string>

#include "report/document.h"
#include "report/tables.h"

namespace slidesparse {

// Each machine once: "NVIDIA H200 (driver 570.86, slidesparse 0.1.0 abc1234), ...".
std::string machine_versions(const Results& results, const Words& words);
// What the figures were measured on: a column a machine.
ReportTable machines_table(const ReportView& view);
// Sittings of the sweep, in order.
ReportTable runs_table(const ReportView& view);

}  // namespace slidesparse
