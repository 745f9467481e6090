#pragma once

#include "report/document.h"
#include "report/tables.h"

namespace slidesparse {

// What the figures were measured on: a column a machine.
ReportTable machines_table(const ReportView& view);
// Sittings of the sweep, in order.
ReportTable runs_table(const ReportView& view);

}  // namespace slidesparse
