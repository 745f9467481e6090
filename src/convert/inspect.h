#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/shape.h"
#include "io/packed_directory.h"
#include "slidesparse/core/dtype.h"
#include "slidesparse/format/pattern.h"

namespace slidesparse {

// One tensor, or one packed linear (values, codes and scale together).
struct InspectRow {
  std::string name;
  Shape shape;  // of a packed linear: [n, k] as it is multiplied
  DType dtype = DType::kF32;
  bool linear = false;             // belongs to the linears whose bytes are compared with dense
  std::optional<Pattern> pattern;  // found in the values; none for tensors that are not matrices
  std::string layout;              // "dense", "slide", "split"; empty for tensors that are not matrices
  std::int64_t elements = 0;
  std::int64_t zeros = 0;        // -0.0 counted
  std::int64_t bytes = 0;        // on disk, scales and codes included
  std::int64_t dense_bytes = 0;  // the same dense in that dtype, scales included
};

struct Inspection {
  std::filesystem::path path;
  std::string kind;                // "packed", "quantised" or "plain"
  std::optional<PackedInfo> info;  // of a packed directory
  std::vector<InspectRow> rows;    // packed: in the model's order; otherwise sorted by name
  std::int64_t bytes = 0;          // of all tensors
  std::int64_t dense_bytes = 0;    // of all tensors, the linears dense
  std::int64_t linear_bytes = 0;
  std::int64_t linear_dense_bytes = 0;
};

// Looks at every byte of a model directory of any kind: checks headers, shapes, codes, scales, values, and
// finds the tightest pattern that each matrix obeys. Throws kInput, by name of tensor, for what is damaged.
Inspection inspect_directory(const std::filesystem::path& path, bool quiet = false);

std::string inspection_to_json(const Inspection& inspection);
std::string inspection_to_text(const Inspection& inspection);

}  // namespace slidesparse
