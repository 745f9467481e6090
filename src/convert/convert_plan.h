#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "convert/convert.h"
#include "io/model_directory.h"
#include "io/packed_directory.h"
#include "io/safetensors.h"
#include "model/config.h"

namespace slidesparse {

// A matrix that is quantised and packed: NAME.values, .codes, .scale.
struct LinearTask {
  std::string name;
  std::string group;
  std::string weight;                // tensor of the source
  std::optional<std::string> scale;  // tensor with the scales when the source is quantised already
  std::int64_t n = 0;
  std::int64_t k = 0;
  Pattern pattern;
  PackedLayout layout = PackedLayout::kSlide;
  std::string perm;    // split: tensor with the group's permutation
  std::string reason;  // why pattern or layout is not that of the directory
  DType target = DType::kI8;
  bool hash = true;  // false when the weight is read as another item too (tied head)

  std::int64_t values_per_row() const {
    return layout == PackedLayout::kSplit ? split_shape(pattern, k).values_per_row()
                                          : pattern.values_per_row(k);
  }
  std::int64_t code_bytes_per_row() const {
    return layout == PackedLayout::kSplit ? split_shape(pattern, k).code_bytes_per_row()
                                          : pattern.code_bytes_per_row(k);
  }
};

// Everything that convert_model() will do, decided before anything is written.
struct ConvertPlan {
  std::vector<std::string> plain;    // tensors that are copied
  std::vector<std::string> ignored;  // tensors that are read for the digest only: copies of others
  std::vector<LinearTask> linears;   // the members of a fused group one after the other; the head last
  std::vector<TensorEntry> outputs;
  std::map<std::string, PackedInfo::LayerException> exceptions;
};

// The linears of the fused group that begins at plan.linears[next] (the head is one by itself); `next` moves
// behind them.
std::span<const LinearTask> group_tasks(const ConvertPlan& plan, std::size_t& next);

// Throws kInput, kUsage or kUnsupported for sources and options that do not go together: packed sources,
// quantised sources of another dtype, missing, unknown or wrongly shaped tensors, globs that match nothing.
ConvertPlan plan_conversion(const ModelDirectory& source, const ModelConfig& config,
                            const ConvertOptions& options);

}  // namespace slidesparse
