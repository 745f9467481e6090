#pragma once

// Log lines go to stderr, results to stdout. Include this only from .cpp files: spdlog is slow to compile.
#include <spdlog/spdlog.h>

namespace slidesparse {

// Sets up the logger once: stderr, one line a message, "warning:"-style prefix.
void init_log(bool quiet);

}  // namespace slidesparse
