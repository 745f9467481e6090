#pragma once

#include <cstdint>

#include "core/cpu.h"
#include "core/device.h"
#include "slidesparse/core/dtype.h"

namespace slidesparse {

// What this machine can do at most, measured: all threads together, under active_isa().
struct MachineLimits {
  double read_bytes_per_second = 0;  // plain loop over memory that no cache holds
  double int8_ops_per_second = 0;    // multiplications and additions, operands in registers; 0: not known
  double bf16_flops_per_second = 0;
  double fp8_flops_per_second = 0;  // of a card; CPUs multiply FP8 as BF16: 0
  int threads = 0;
  Isa isa = Isa::kPortable;

  double ops_per_second(DType dtype) const {
    if (dtype == DType::kF8E4M3 && fp8_flops_per_second > 0) return fp8_flops_per_second;
    return dtype == DType::kI8 ? int8_ops_per_second : bf16_flops_per_second;
  }
};

// Takes about 3 * `seconds`.
MachineLimits measure_machine_limits(double seconds = 0.3);

#ifdef SLIDESPARSE_HAVE_CUDA
// Of the first card. Bytes: a device-to-device copy, read and written, measured. Operations: what the maker
// states for the chip at its boost clock, dense (src/gemm/cuda_limits.cpp); 0 for chips that are not listed.
MachineLimits measure_card_limits();
#endif
// Of either device. Throws kInternal for a card in a build without CUDA.
MachineLimits measure_limits(DeviceKind device);

// Bytes of the last-level cache; a guess of 64 MiB where the system does not say.
std::int64_t last_level_cache_bytes();

}  // namespace slidesparse
