#include "kernels/sm90/sm90_launch.cuh"

namespace slidesparse::sm90 {

Variant fp8_128x128() {
  return Launch<Config<DType::kF8E4M3, 128, 128, 6, 2>>::variant();
}

}  // namespace slidesparse::sm90
