#include "gemm/backends/cutlass/instance.cuh"

namespace slidesparse::cutlass_gemm {

Variant int8_128x128_pingpong() {
  return Instance<DType::kI8, 128, 128, 128, 2, Schedule::kPingpong>::variant();
}

}  // namespace slidesparse::cutlass_gemm
