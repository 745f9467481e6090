#include "gemm/backends/cutlass/early_stream_k.cuh"

namespace slidesparse::cutlass_gemm {

Variant fp8_128x64_stream_k() {
  return EarlyStreamK<DType::kF8E4M3, 128, 64, 128, 1>::variant();
}

}  // namespace slidesparse::cutlass_gemm
