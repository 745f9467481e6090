#include "kernels/sm90/sm90_launch.cuh"

namespace slidesparse::sm90 {

Variant fp8_128x256_mixed() {
  return Launch<Config<DType::kF8E4M3, 128, 256, 4, 2, false, 128>>::variant();
}

}  // namespace slidesparse::sm90
