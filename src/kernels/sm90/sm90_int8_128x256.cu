#include "kernels/sm90/sm90_launch.cuh"

namespace slidesparse::sm90 {

Variant int8_128x256() {
  return Launch<Config<DType::kI8, 128, 256, 3, 2>>::variant();
}

}  // namespace slidesparse::sm90
