#include "slidesparse/core/dtype.h"

#include <array>

namespace slidesparse {
namespace {

struct DTypeInfo {
  DType dtype;
  std::size_t size;
  std::string_view name;
};

constexpr std::array<DTypeInfo, 12> kInfo{{{DType::kF32, 4, "F32"},
                                           {DType::kF16, 2, "F16"},
                                           {DType::kBF16, 2, "BF16"},
                                           {DType::kF8E4M3, 1, "F8_E4M3"},
                                           {DType::kI8, 1, "I8"},
                                           {DType::kU8, 1, "U8"},
                                           {DType::kI32, 4, "I32"},
                                           {DType::kI64, 8, "I64"},
                                           {DType::kF64, 8, "F64"},
                                           {DType::kBool, 1, "BOOL"},
                                           {DType::kI16, 2, "I16"},
                                           {DType::kF8E5M2, 1, "F8_E5M2"}}};

}  // namespace

std::size_t dtype_size(DType dtype) {
  return kInfo[static_cast<std::size_t>(dtype)].size;
}

std::string_view dtype_name(DType dtype) {
  return kInfo[static_cast<std::size_t>(dtype)].name;
}

std::optional<DType> parse_dtype(std::string_view name) {
  for (const DTypeInfo& info : kInfo) {
    if (info.name == name) return info.dtype;
  }
  return std::nullopt;
}

}  // namespace slidesparse
