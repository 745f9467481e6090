#pragma once

#include <string_view>

namespace slidesparse {

// Throws kUnsupported (out of memory, no device) or kInternal (anything else) with the call, the place,
// CUDA's name and text for `status`, and `what`, which names sizes. `status` is a cudaError_t; 0 returns.
// `file` and `line` are the caller's (std::source_location is more than clang-tidy 14 understands).
void cuda_check(int status, std::string_view call, std::string_view what = {},
                std::string_view file = __builtin_FILE(), int line = __builtin_LINE());

}  // namespace slidesparse
