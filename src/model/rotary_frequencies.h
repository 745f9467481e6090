#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace slidesparse {

// Inverse frequencies [head_dim / 2] of the rotary embedding, llama3 scaling applied.
std::vector<float> rotary_frequencies(const RopeConfig& rope, std::int64_t head_dim);

}  // namespace slidesparse
