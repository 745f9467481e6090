#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace slidesparse {

// Element types of tensors, with the names that safetensors gives them.
enum class DType : std::uint8_t {
  kF32,
  kF16,
  kBF16,
  kF8E4M3,
  kI8,
  kU8,
  kI32,
  kI64,
  kF64,
  kBool,
  kI16,
  kF8E5M2
};

// Size of one element in bytes.
std::size_t dtype_size(DType dtype);
// "F32", "BF16", "F8_E4M3", ...
std::string_view dtype_name(DType dtype);
// The inverse of dtype_name; empty for names that are not known.
std::optional<DType> parse_dtype(std::string_view name);

}  // namespace slidesparse
