#include "kernels/sm90/sm90_launch.cuh"

namespace slidesparse::sm90 {

Variant int8_128x32_split() {
  return SplitLaunch<Config<DType::kI8, 128, 32, 3, 1, true, 32, 3>>::variant();
}

}  // namespace slidesparse::sm90
