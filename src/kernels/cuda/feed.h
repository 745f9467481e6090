#pragma once

#include <cstdint>

namespace slidesparse::cuda {

// ids[i] = -1 - r becomes drawn[r], r < rows: inputs that are what the step before drew. Other ids stay; one
// whose r is none becomes -1. Returns a cudaError_t.
int feed_drawn(std::int32_t* ids, std::int64_t count, const std::int32_t* drawn, std::int64_t rows,
               void* stream);

}  // namespace slidesparse::cuda
