#pragma once

#include <string>
#include <vector>

#include "gemm/backend.h"

namespace slidesparse {

// How a kernel of the cpu backend goes about it.
enum class CpuMethod {
  kStream,  // rows expanded in registers, few tokens: decode
  kPanel,  // a panel of rows expanded into scratch that stays in the second-level cache, any number of tokens
  kTiles,  // such a panel against groups of tokens: on AMX tiles, or in registers with AVX2
  kOneDnn,  // oneDNN's matmul on dense weights in its own layout
};

// One entry of the backend's table.
struct CpuKernel {
  CpuMethod method = CpuMethod::kPanel;
  DType dtype = DType::kI8;
  Layout layout = Layout::kDense;
  Pattern pattern;  // of packed layouts; dense otherwise
  Isa isa = Isa::kPortable;
};

// Everything that can run under `isa`; descs name them with id = index.
const std::vector<CpuKernel>& cpu_kernels(Isa isa);
KernelDesc describe(const CpuKernel& kernel, int id);
// The entry that a KernelDesc of this backend names; throws kInternal for one that is not from here.
const CpuKernel& cpu_kernel(const KernelDesc& kernel);

// Largest M of a streaming kernel.
std::int64_t largest_stream_m();
// Smallest M of AVX2's tiles: below, most of a group of tokens would be zeros.
std::int64_t smallest_tile_m();

}  // namespace slidesparse
