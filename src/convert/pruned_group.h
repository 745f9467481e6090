#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "convert/convert_plan.h"
#include "core/buffer.h"
#include "io/model_directory.h"
#include "prune/group_prune.h"

namespace slidesparse {

// The linears of one fused group, pruned together in memory.
struct PrunedGroup {
  struct Member {
    Buffer rows;  // [n, k] in the dtype of the source
    Buffer bf16;  // the same in BF16; empty when the source is
    const std::uint16_t* as_bf16() const {
      return bf16.size() > 0 ? bf16.as<std::uint16_t>() : rows.as<std::uint16_t>();
    }
  };
  std::vector<Member> members;
  GroupPruneResult result;
};

// Bytes that prune_source_group() takes for `rows` rows of `k` channels, result included.
std::int64_t pruned_group_bytes(const GroupPrune& prune, std::int64_t rows, std::int64_t k);

// Reads the weights of `members` (one fused group, BF16, F16 or F32), prunes them by prune_group(), and
// rounds what came out to the dtype of the source. Throws kInput naming the group for weights or moments that
// are not finite.
PrunedGroup prune_source_group(const ModelDirectory& source, std::span<const LinearTask> members,
                               const GroupPrune& prune, std::span<float> second_moments);

}  // namespace slidesparse
