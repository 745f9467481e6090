#include "kernels/cpu/gemm_kernels.h"

namespace slidesparse {

std::uint64_t read_words(const std::uint64_t* words, std::int64_t count) {
  constexpr std::int64_t kWays = 32;
  std::uint64_t sums[kWays] = {};
  std::int64_t i = 0;
  for (; i + kWays <= count; i += kWays) {
    for (std::int64_t j = 0; j < kWays; ++j) sums[j] += words[i + j];
  }
  for (; i < count; ++i) sums[0] += words[i];
  std::uint64_t sum = 0;
  for (const std::uint64_t part : sums) sum += part;
  return sum;
}

const GemmKernels& gemm_kernels(Isa isa, DType dtype) {
  if (isa == Isa::kPortable) return portable_gemm_kernels(dtype);
  if (isa == Isa::kAvx2) return avx2_gemm_kernels(dtype);
  if (dtype == DType::kI8) return avx512_i8_gemm_kernels();
  if (dtype == DType::kF8E4M3) return avx512_f8_gemm_kernels();
  return avx512_bf16_gemm_kernels();
}

}  // namespace slidesparse
