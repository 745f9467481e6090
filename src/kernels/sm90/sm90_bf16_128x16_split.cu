#include "kernels/sm90/sm90_launch.cuh"

namespace slidesparse::sm90 {

Variant bf16_128x16_split() {
  return SplitLaunch<Config<DType::kBF16, 128, 16, 4, 1, true, 16, 3>>::variant();
}

}  // namespace slidesparse::sm90
