#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "report/results.h"

namespace slidesparse {

// Cells that belong into one table: what they have in common, and its rows and columns in order of
// appearance.
struct Section {
  std::string phase, dtype, workload;
  std::optional<std::int64_t> memory_limit;
  std::vector<std::size_t> cells;             // indices into Results::cells
  std::vector<std::string> models, variants;  // variants: dense ones first
};
std::vector<Section> sections_of(const Results& results);

// Backend and pattern, and the layout where it is not the usual one: "cusparselt 6:8", "native 6:8 split".
std::string variant_of(const ReportCell& cell);

// How many cells there are, and how many in each state. Every count of a report comes from here.
struct Count {
  std::int64_t all = 0;
  std::map<std::string, std::int64_t> states;
  std::int64_t of(const std::string& state) const;
  std::int64_t measured() const { return of("ok"); }
};
Count count_cells(const Results& results, std::span<const std::size_t> cells,
                  const std::function<bool(const ReportCell&)>& wanted);
Count count_cells(const Results& results);  // all

// All states that docs/sweep.md names, in the order of the report.
const std::vector<std::string>& known_states();

}  // namespace slidesparse
