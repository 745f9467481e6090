#include "kernels/sm90/sm90_launch.cuh"

namespace slidesparse::sm90 {

Variant int8_128x64() {
  return Launch<Config<DType::kI8, 128, 64, 8, 1>>::variant();
}

}  // namespace slidesparse::sm90
