#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gemm/backend.h"

namespace slidesparse {

// What every backend asks of a problem: sizes, strides, types and layout that belong together. INT8 sums must
// fit in 32 bits, so K is limited there. CUDA backends add check_cuda_problem().
Feasibility check_problem(const GemmDesc& desc);
// The same for a problem that has to be on the CPU.
Feasibility check_cpu_problem(const GemmDesc& desc);

// Throws kInternal unless the weights are those that the problem names, with all their parts.
void check_source(const WeightSource& source, const GemmDesc& desc);

// Elements of one row of X and D from the next.
inline std::int64_t row_stride_x(const GemmDesc& desc) {
  return desc.ldx != 0 ? desc.ldx : desc.k;
}
inline std::int64_t row_stride_out(const GemmDesc& desc) {
  return desc.ldout != 0 ? desc.ldout : desc.n;
}

// `count` elements of F32, F16 or BF16; throws kInternal for other types.
std::vector<float> to_floats(const void* data, DType dtype, std::int64_t count);

// A source together with its scales and bias in FP32, [n] each (empty where there are none).
struct CpuWeights : PreparedWeights {
  CpuWeights(const WeightSource& from, const GemmDesc& desc);
  std::int64_t allocated_bytes() const override;

  WeightSource source;
  std::vector<float> scales;
  std::vector<float> bias;
};

// Bytes that CpuWeights allocates, and bytes of the stored rows with their scales.
std::int64_t vector_bytes(const GemmDesc& desc);
std::int64_t stored_bytes(const GemmDesc& desc);

// Elements and code bytes of one stored row.
std::int64_t stored_values_per_row(const GemmDesc& desc);
std::int64_t stored_code_bytes_per_row(const GemmDesc& desc);

// KernelDesc::config of the libraries: words "key=value" with one space between them. Throws kInput when it
// is anything else, or names a key twice.
std::vector<std::pair<std::string, std::string>> parse_config(std::string_view text);
// The value of one word as a number in `smallest` .. `largest`; throws kInput.
std::int64_t config_number(const std::pair<std::string, std::string>& word, std::int64_t largest,
                           std::int64_t smallest = 0);

}  // namespace slidesparse
