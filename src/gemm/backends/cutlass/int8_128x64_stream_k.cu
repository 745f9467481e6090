#include "gemm/backends/cutlass/early_stream_k.cuh"

namespace slidesparse::cutlass_gemm {

Variant int8_128x64_stream_k() {
  return EarlyStreamK<DType::kI8, 128, 64, 128, 1>::variant();
}

}  // namespace slidesparse::cutlass_gemm
