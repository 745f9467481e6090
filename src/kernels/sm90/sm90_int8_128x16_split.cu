#include "kernels/sm90/sm90_launch.cuh"

namespace slidesparse::sm90 {

Variant int8_128x16_split() {
  return SplitLaunch<Config<DType::kI8, 128, 16, 4, 1, true, 16, 3>>::variant();
}

}  // namespace slidesparse::sm90
