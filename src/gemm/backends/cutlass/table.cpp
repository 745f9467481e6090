#include <fmt/core.h>

#include <array>

#include "cutlass/version.h"
#include "gemm/backends/cutlass/variant.h"

namespace slidesparse::cutlass_gemm {

// One file each; at most twelve, since each takes half a minute to compile.
Variant fp8_64x32_pingpong();
Variant fp8_64x64_pingpong();
Variant fp8_128x64_stream_k();
Variant fp8_128x128_stream_k();
Variant fp8_128x128_pingpong();
Variant fp8_128x256_cooperative();
Variant int8_64x32_pingpong();
Variant int8_64x64_pingpong();
Variant int8_128x64_stream_k();
Variant int8_128x128_stream_k();
Variant int8_128x128_pingpong();
Variant int8_128x256_cooperative();

std::span<const Variant> variants() {
  static const std::array kVariants{
      fp8_64x32_pingpong(),   fp8_64x64_pingpong(),      fp8_128x64_stream_k(),   fp8_128x128_stream_k(),
      fp8_128x128_pingpong(), fp8_128x256_cooperative(), int8_64x32_pingpong(),   int8_64x64_pingpong(),
      int8_128x64_stream_k(), int8_128x128_stream_k(),   int8_128x128_pingpong(), int8_128x256_cooperative(),
  };
  return kVariants;
}

std::string version() {
  return fmt::format("{}.{}.{}", cutlass::getVersionMajor(), cutlass::getVersionMinor(),
                     cutlass::getVersionPatch());
}

}  // namespace slidesparse::cutlass_gemm
