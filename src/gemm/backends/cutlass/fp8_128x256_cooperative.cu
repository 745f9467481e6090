#include "gemm/backends/cutlass/instance.cuh"

namespace slidesparse::cutlass_gemm {

Variant fp8_128x256_cooperative() {
  return Instance<DType::kF8E4M3, 128, 256, 128, 2, Schedule::kCooperative>::variant();
}

}  // namespace slidesparse::cutlass_gemm
