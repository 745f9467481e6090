#include "kernels/sm90/sm90_launch.cuh"

namespace slidesparse::sm90 {

Variant bf16_128x128() {
  return Launch<Config<DType::kBF16, 128, 128, 6, 2>>::variant();
}

}  // namespace slidesparse::sm90
