#include "gemm/backends/cutlass/instance.cuh"

namespace slidesparse::cutlass_gemm {

Variant fp8_128x128_pingpong() {
  return Instance<DType::kF8E4M3, 128, 128, 128, 2, Schedule::kPingpong>::variant();
}

}  // namespace slidesparse::cutlass_gemm
