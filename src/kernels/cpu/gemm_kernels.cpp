#include "kernels/cpu/gemm_kernels.h"

namespace slidesparse {

const GemmKernels& gemm_kernels(Isa isa, DType dtype) {
  if (isa == Isa::kPortable) return portable_gemm_kernels(dtype);
  if (isa == Isa::kAvx2) return avx2_gemm_kernels(dtype);
  if (dtype == DType::kI8) return avx512_i8_gemm_kernels();
  if (dtype == DType::kF8E4M3) return avx512_f8_gemm_kernels();
  return avx512_bf16_gemm_kernels();
}

}  // namespace slidesparse
