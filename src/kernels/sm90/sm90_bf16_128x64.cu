#include "kernels/sm90/sm90_launch.cuh"

namespace slidesparse::sm90 {

Variant bf16_128x64() {
  return Launch<Config<DType::kBF16, 128, 64, 8, 1>>::variant();
}

}  // namespace slidesparse::sm90
