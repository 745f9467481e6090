#include "kernels/sm90/sm90_launch.cuh"

namespace slidesparse::sm90 {

Variant bf16_128x256_mixed() {
  return Launch<Config<DType::kBF16, 128, 256, 4, 2, false, 128>>::variant();
}

}  // namespace slidesparse::sm90
