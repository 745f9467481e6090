#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/shape.h"
#include "core/tensor.h"
#include "slidesparse/core/dtype.h"

namespace slidesparse {

// One tensor of a safetensors file; offsets are from the start of the data section.
struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t bytes() const { return end - begin; }
};

struct SafetensorsHeader {
  std::vector<TensorEntry> tensors;             // in the order of their data
  std::map<std::string, std::string> metadata;  // __metadata__
  std::int64_t data_begin = 0;                  // 8 + header length
};

// Header length limit of the format: 100 MB.
inline constexpr std::int64_t kMaxSafetensorsHeader = 100'000'000;

// Parses and checks the header of a file of `file_size` bytes whose first bytes are `prefix` (8 + header
// length of them are needed): length within the file and the limit, valid JSON, known dtypes, no duplicate
// names, non-negative extents, shape * dtype = bytes in checked arithmetic, ranges contiguous from 0 to the
// end of the file. Throws kInput with file, tensor, expected and found.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> prefix, std::int64_t file_size,
                                           const std::string& file);

// Puts larger element types first (ties keep their order): in that order every tensor begins at a multiple of
// its element size, which mapping needs. Readers refuse misaligned tensors.
void sort_for_alignment(std::vector<TensorEntry>& tensors);

// The bytes that stand before the data section (length and JSON, padded with spaces to 8) for tensors laid
// out in the order given, contiguously. Fills begin and end. Throws kInternal for a repeated name or an order
// that misaligns a tensor.
std::string build_safetensors_header(std::vector<TensorEntry>& tensors,
                                     const std::map<std::string, std::string>& metadata);

}  // namespace slidesparse
