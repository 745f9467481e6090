#include "gemm/backends/cutlass/early.cuh"

namespace slidesparse::cutlass_gemm {

Variant fp8_64x32_pingpong() {
  return EarlyInstance<DType::kF8E4M3, 64, 32, 256, 1, Schedule::kPingpong>::variant();
}

}  // namespace slidesparse::cutlass_gemm
