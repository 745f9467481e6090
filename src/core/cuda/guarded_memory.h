#pragma once

#include <cstdint>

namespace slidesparse {

// Device memory for looking for mistakes: ends (but for what 256 bytes' alignment leaves over) where nothing
// is mapped, and is unmapped again when it is given back, so that every access behind it, and every one after
// its time, stops the kernel with an illegal address - those of the copy engine too, which checking tools do
// not all see. Takes 2 MiB at least. Both return a cudaError_t.
int guarded_allocate(std::int64_t bytes, void** pointer);
// Waits for the card first, as cudaFree does.
int guarded_free(void* pointer);

}  // namespace slidesparse
