#include "kernels/sm90/sm90_launch.cuh"

namespace slidesparse::sm90 {

Variant fp8_192x192() {
  return Launch<Config<DType::kF8E4M3, 192, 192, 3, 2>>::variant();
}

}  // namespace slidesparse::sm90
