#pragma once

namespace slidesparse {

extern const char* const kVersion;  // "0.1.0"
// The commit that this was configured at (12 digits); empty outside a checkout.
extern const char* const kCommit;
// Version of the CUDA toolkit that this was built with, empty for none.
extern const char* const kCudaToolkit;

}  // namespace slidesparse
