#pragma once

#include <string_view>

#include "slidesparse/core/dtype.h"

namespace slidesparse {

// The words that people use for the number formats of weights: "int8", "fp8", "bf16"; dtype_name() for
// others.
constexpr std::string_view kInt8Word = "int8";
constexpr std::string_view kFp8Word = "fp8";
constexpr std::string_view kBf16Word = "bf16";

inline std::string_view dtype_word(DType dtype) {
  switch (dtype) {
    case DType::kI8:
      return kInt8Word;
    case DType::kF8E4M3:
      return kFp8Word;
    case DType::kBF16:
      return kBf16Word;
    default:
      return dtype_name(dtype);
  }
}

}  // namespace slidesparse
