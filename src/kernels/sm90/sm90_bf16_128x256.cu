#include "kernels/sm90/sm90_launch.cuh"

namespace slidesparse::sm90 {

Variant bf16_128x256() {
  return Launch<Config<DType::kBF16, 128, 256, 3, 2>>::variant();
}

}  // namespace slidesparse::sm90
