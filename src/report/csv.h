#pragma once

#include <string>

#include "report/tables.h"

namespace slidesparse {

// One line a cell; column names are the same in every language (docs/report.md).
std::string to_csv(const ReportView& view);

// A text as a field of CSV. One that a spreadsheet would take for a formula gets an apostrophe in front.
std::string csv_field(const std::string& text);

}  // namespace slidesparse
