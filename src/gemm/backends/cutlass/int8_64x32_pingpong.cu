#include "gemm/backends/cutlass/instance.cuh"

namespace slidesparse::cutlass_gemm {

Variant int8_64x32_pingpong() {
  return Instance<DType::kI8, 64, 32, 256, 1, Schedule::kPingpong>::variant();
}

}  // namespace slidesparse::cutlass_gemm
