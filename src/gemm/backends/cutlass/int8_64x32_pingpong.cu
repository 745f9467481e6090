#include "gemm/backends/cutlass/early.cuh"

namespace slidesparse::cutlass_gemm {

Variant int8_64x32_pingpong() {
  return EarlyInstance<DType::kI8, 64, 32, 256, 1, Schedule::kPingpong>::variant();
}

}  // namespace slidesparse::cutlass_gemm
