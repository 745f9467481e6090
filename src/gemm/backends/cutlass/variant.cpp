#include "gemm/backends/cutlass/variant.h"

#include <fmt/core.h>

namespace slidesparse::cutlass_gemm {
namespace {

std::string_view schedule_name(Schedule schedule) {
  switch (schedule) {
    case Schedule::kPingpong:
      return "pingpong";
    case Schedule::kCooperative:
      return "cooperative";
    case Schedule::kStreamK:
      return "stream-k";
  }
  return "?";
}

}  // namespace

std::string variant_name(const Variant& variant) {
  return fmt::format("{}x{}x{} {}x1 {}", variant.tile_channels, variant.tile_tokens, variant.tile_k,
                     variant.cluster_channels, schedule_name(variant.schedule));
}

}  // namespace slidesparse::cutlass_gemm
