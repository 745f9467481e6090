#include "gemm/backends/cutlass/instance.cuh"

namespace slidesparse::cutlass_gemm {

Variant fp8_128x128_stream_k() {
  return Instance<DType::kF8E4M3, 128, 128, 128, 2, Schedule::kStreamK>::variant();
}

}  // namespace slidesparse::cutlass_gemm
