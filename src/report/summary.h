#pragma once

#include <string>
#include <vector>

#include "report/document.h"
#include "report/tables.h"

namespace slidesparse {

// Sentences that the rows carry: how much was measured, why the rest was not, what is faster and what is not.
std::vector<std::string> summary_sentences(const ReportView& view);
// How to read the figures: what is counted, and how it was repeated here.
std::vector<std::string> method_sentences(const ReportView& view);

}  // namespace slidesparse
