#pragma once

namespace slidesparse {

extern const char* const kVersion;  // "0.1.0"
// Version of the CUDA toolkit that this was built with, empty for none.
extern const char* const kCudaToolkit;

}  // namespace slidesparse
