#include "kernels/sm90/sm90_launch.cuh"

namespace slidesparse::sm90 {

Variant bf16_128x64_split() {
  return SplitLaunch<Config<DType::kBF16, 128, 64, 4, 1, true, 64, 2>>::variant();
}

}  // namespace slidesparse::sm90
