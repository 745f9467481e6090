#include "kernels/sm90/sm90_launch.cuh"

namespace slidesparse::sm90 {

Variant int8_192x192() {
  return Launch<Config<DType::kI8, 192, 192, 3, 2>>::variant();
}

}  // namespace slidesparse::sm90
