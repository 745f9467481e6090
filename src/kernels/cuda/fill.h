#pragma once

#include <cstdint>

#include "slidesparse/core/dtype.h"

// Random contents for benchmarks and tests, made on the card.
namespace slidesparse::cuda {

// Element i depends on `seed` and i alone (core/random.h's generator):
//   BF16, F32: random_normal(seed, i), about standard normal, finite;
//   F8_E4M3: E4M3 of 128 * random_normal(seed, i): what quantised activations look like, no NaN;
//   I8, U8: uniform bytes, byte i % 8 of random_bits(seed, i / 8);
//   I32: uniform in -2^20 .. 2^20 - 1.
// Returns a cudaError_t.
int fill_random(DType dtype, void* to, std::int64_t count, std::uint64_t seed, void* stream);

// Copies `bytes` (a multiple of 16, both addresses too) with 16-byte accesses: what a kernel that only moves
// data reaches. Returns a cudaError_t.
int copy_wide(void* to, const void* from, std::int64_t bytes, void* stream);

// A kernel of one thread that does nothing: what a launch costs by itself. Returns a cudaError_t.
int launch_nothing(void* stream);

}  // namespace slidesparse::cuda
