#pragma once

#include <source_location>
#include <string_view>

namespace slidesparse {

// Throws kUnsupported (out of memory, no device) or kInternal (anything else) with the call, the place,
// CUDA's name and text for `status`, and `what`, which names sizes. `status` is a cudaError_t; 0 returns.
void cuda_check(int status, std::string_view call, std::string_view what = {},
                std::source_location place = std::source_location::current());

}  // namespace slidesparse
