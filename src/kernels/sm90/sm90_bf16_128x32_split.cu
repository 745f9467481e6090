#include "kernels/sm90/sm90_launch.cuh"

namespace slidesparse::sm90 {

Variant bf16_128x32_split() {
  return SplitLaunch<Config<DType::kBF16, 128, 32, 3, 1, true, 32, 3>>::variant();
}

}  // namespace slidesparse::sm90
