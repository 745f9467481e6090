#include "kernels/sm90/sm90_launch.cuh"

namespace slidesparse::sm90 {

Variant int8_128x64_split() {
  return SplitLaunch<Config<DType::kI8, 128, 64, 4, 1, true, 64, 2>>::variant();
}

}  // namespace slidesparse::sm90
