#include "gemm/backends/cutlass/instance.cuh"

namespace slidesparse::cutlass_gemm {

Variant int8_128x64_stream_k() {
  return Instance<DType::kI8, 128, 64, 128, 1, Schedule::kStreamK>::variant();
}

}  // namespace slidesparse::cutlass_gemm
