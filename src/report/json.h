#pragma once

#include <string>

#include "report/compare.h"
#include "report/tables.h"

namespace slidesparse {

// Everything that the other forms say, for programs (docs/report.md). `there` and `comparison` are null
// without
// --compare. Invalid UTF-8 in the database becomes U+FFFD.
std::string to_json(const ReportView& view, const std::vector<std::string>& summary, const Results* there,
                    const Comparison* comparison);

}  // namespace slidesparse
