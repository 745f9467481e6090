#include "gemm/backends/cutlass/instance.cuh"

namespace slidesparse::cutlass_gemm {

Variant fp8_128x64_stream_k() {
  return Instance<DType::kF8E4M3, 128, 64, 128, 1, Schedule::kStreamK>::variant();
}

}  // namespace slidesparse::cutlass_gemm
