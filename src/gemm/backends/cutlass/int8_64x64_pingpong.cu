#include "gemm/backends/cutlass/early.cuh"

namespace slidesparse::cutlass_gemm {

Variant int8_64x64_pingpong() {
  return EarlyInstance<DType::kI8, 64, 64, 128, 1, Schedule::kPingpong>::variant();
}

}  // namespace slidesparse::cutlass_gemm
