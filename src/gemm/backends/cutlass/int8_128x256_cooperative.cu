#include "gemm/backends/cutlass/instance.cuh"

namespace slidesparse::cutlass_gemm {

Variant int8_128x256_cooperative() {
  return Instance<DType::kI8, 128, 256, 128, 2, Schedule::kCooperative>::variant();
}

}  // namespace slidesparse::cutlass_gemm
