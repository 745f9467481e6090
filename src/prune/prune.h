#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "slidesparse/core/dtype.h"
#include "slidesparse/format/pattern.h"

namespace slidesparse {

enum class PruneMethod {
  kNone,       // only checks that the pattern is obeyed
  kMagnitude,  // keeps the largest |w| of each group
  kWanda,      // the largest |w| * norm of the input channel
  kSparseGpt,  // those without which the outputs change least when the others make up for it
};
PruneMethod parse_prune_method(std::string_view name);  // throws kUsage with the list
std::string_view prune_method_name(PruneMethod method);

// Whether a method has to know the inputs of the linears: group_prune.h.
constexpr bool needs_calibration(PruneMethod method) {
  return method == PruneMethod::kWanda || method == PruneMethod::kSparseGpt;
}

struct PruneReport {
  std::int64_t elements = 0;
  std::int64_t zeros = 0;   // after pruning, -0.0 counted
  std::int64_t pruned = 0;  // non-zeros that were set to zero
  double energy = 0;        // sum of w^2 before
  double energy_kept = 0;   // and after
  PruneReport& operator+=(const PruneReport& other);
};

// Prunes rows [rows, k] (stride ld, elements) in place so that each group of 2N input channels has at most
// 2N-2 non-zeros; I8, F8_E4M3, BF16, F16 or F32. Among equal magnitudes the lower lane is dropped first, as a
// stable ascending sort does. A group that obeys the pattern already is not touched; a dropped lane becomes
// +0. A tail group is pruned only if its real non-zeros exceed 2N-2. Throws kInput (`what`, row, group,
// lanes) for kNone on rows that break the pattern, and for NaN or infinite weights. Methods that need
// calibration prune whole fused groups: group_prune.h.
PruneReport prune_rows(Pattern pattern, PruneMethod method, DType dtype, void* w, std::int64_t rows,
                       std::int64_t k, std::int64_t ld, std::int64_t first_row = 0,
                       const std::string& what = "matrix");

}  // namespace slidesparse
