#include "gemm/desc.h"

#include <fmt/core.h>

namespace slidesparse {

std::string_view layout_name(Layout layout) {
  switch (layout) {
    case Layout::kDense:
      return "dense";
    case Layout::kPacked:
      return "packed";
    case Layout::kSlid:
      return "slid";
    case Layout::kSplit:
      return "split";
  }
  return "?";
}

std::string GemmDesc::to_string() const {
  const std::string form =
      layout == Layout::kDense ? "dense" : fmt::format("{} {}", pattern.to_string(), layout_name(layout));
  return fmt::format("{}{} {} M={} N={} K={}{}", dtype_name(w),
                     x == w ? "" : fmt::format(" x {}", dtype_name(x)), form, m, n, k,
                     out == DType::kBF16 ? "" : fmt::format(" -> {}", dtype_name(out)));
}

}  // namespace slidesparse
