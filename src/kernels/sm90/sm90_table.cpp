#include <fmt/core.h>

#include <array>

#include "kernels/sm90/sm90_variant.h"

namespace slidesparse::sm90 {

// One small file each.
Variant fp8_128x256();
Variant fp8_128x256_mixed();
Variant fp8_192x192();
Variant fp8_128x128();
Variant fp8_128x64();
Variant fp8_128x64_split();
Variant fp8_128x32_split();
Variant fp8_128x16_split();
Variant int8_128x256();
Variant int8_192x192();
Variant int8_128x128();
Variant int8_128x64();
Variant int8_128x64_split();
Variant int8_128x32_split();
Variant int8_128x16_split();
Variant bf16_128x256();
Variant bf16_128x256_mixed();
Variant bf16_128x128();
Variant bf16_128x64();
Variant bf16_128x64_split();
Variant bf16_128x32_split();
Variant bf16_128x16_split();

std::span<const Variant> variants() {
  static const std::array kVariants{
      fp8_128x256(),        fp8_128x256_mixed(), fp8_192x192(),       fp8_128x128(),
      fp8_128x64(),         fp8_128x64_split(),  fp8_128x32_split(),  fp8_128x16_split(),
      int8_128x256(),       int8_192x192(),      int8_128x128(),      int8_128x64(),
      int8_128x64_split(),  int8_128x32_split(), int8_128x16_split(), bf16_128x256(),
      bf16_128x256_mixed(), bf16_128x128(),      bf16_128x64(),       bf16_128x64_split(),
      bf16_128x32_split(),  bf16_128x16_split()};
  return kVariants;
}

std::string variant_name(const Variant& variant) {
  return fmt::format("{}x{} {} stages{}{}{}", variant.tile_channels, variant.tile_tokens, variant.stages,
                     variant.cluster > 1 ? fmt::format(" cluster {}", variant.cluster) : "",
                     variant.dense_pairs ? "" : " mixed", variant.split_blocks > 0 ? " split-k" : "");
}

}  // namespace slidesparse::sm90
