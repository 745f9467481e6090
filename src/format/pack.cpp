#include "slidesparse/format/pack.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/fail.h"
#include "format/row_codec.h"

namespace slidesparse {
namespace {

// A row of a matrix whose rows lie `stride` elements of `size` bytes apart.
template <typename Byte, typename Pointer>
Byte* row_at(Pointer base, std::int64_t row, std::int64_t stride, std::int64_t size) {
  return static_cast<Byte*>(base) + row * stride * size;
}

void require_matrix(std::int64_t rows, std::int64_t k, std::int64_t ld) {
  require(rows >= 0 && k >= 0 && (ld >= k || rows <= 1),
          "matrix of {} rows of {} elements with row stride {}", rows, k, ld);
}

// Elements of a dense row that are not zero.
std::int64_t count_non_zeros(DType dtype, const void* row, std::int64_t k,
                             std::vector<std::uint64_t>& scratch) {
  const auto words = static_cast<std::size_t>((k + 63) / 64);
  scratch.resize(2 * words);
  return row_kernels(active_isa(), dtype_size(dtype))
      .scan(row, k, magnitude_bits(dtype), scratch.data(), scratch.data() + words);
}

[[noreturn]] void fail_crowded(const std::string& what, Pattern pattern, std::int64_t row, std::int64_t group,
                               const std::vector<int>& lanes, std::int64_t k) {
  const std::int64_t first = group * pattern.group();
  fail_input(
      "{}: row {}, group {} (channels {}-{}) has {} non-zeros, in lanes {}; {} keeps at most {}: prune it "
      "first "
      "or take a milder pattern",
      what, row, group, first, std::min(first + pattern.group(), k) - 1, lanes.size(), fmt::join(lanes, ","),
      pattern.to_string(), pattern.kept());
}

// Calls body(codec, row number, values, codes) for a range of packed rows; dense rows are not for it.
template <typename Body>
void for_each_packed_row(const PackedView& packed, std::int64_t begin, std::int64_t rows, const Body& body) {
  const auto size = static_cast<std::int64_t>(dtype_size(packed.dtype));
  RowCodec codec(packed.pattern, packed.dtype, packed.k);
  for (std::int64_t row = begin; row < begin + rows; ++row) {
    body(codec, row,
         row_at<const std::uint8_t>(packed.values, row, packed.pattern.values_per_row(packed.k), size),
         packed.codes + row * packed.pattern.code_bytes_per_row(packed.k));
  }
}

}  // namespace

PackReport pack_rows(Pattern pattern, DType dtype, const void* dense, std::int64_t rows, std::int64_t k,
                     std::int64_t ld, void* values, std::uint8_t* codes, std::int64_t first_row,
                     const std::string& what) {
  magnitude_bits(dtype);  // refuses dtypes that cannot be packed
  require_matrix(rows, k, ld);
  const auto size = static_cast<std::int64_t>(dtype_size(dtype));
  PackReport report;
  if (k == 0) return report;
  if (pattern.is_dense()) {
    std::vector<std::uint64_t> scratch;
    for (std::int64_t row = 0; row < rows; ++row) {
      const auto* from = row_at<const std::uint8_t>(dense, row, ld, size);
      report.non_zeros += count_non_zeros(dtype, from, k, scratch);
      std::memcpy(row_at<std::uint8_t>(values, row, k, size), from, static_cast<std::size_t>(k * size));
    }
    return report;
  }
  RowCodec codec(pattern, dtype, k);
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto crowded = codec.pack(row_at<const std::uint8_t>(dense, row, ld, size),
                                    row_at<std::uint8_t>(values, row, pattern.values_per_row(k), size),
                                    codes + row * pattern.code_bytes_per_row(k), report);
    if (crowded) fail_crowded(what, pattern, first_row + row, *crowded, codec.non_zero_lanes(*crowded), k);
  }
  return report;
}

void unpack_rows(const PackedView& packed, std::int64_t row_begin, std::int64_t rows, void* dense,
                 std::int64_t ld, const std::string& what) {
  magnitude_bits(packed.dtype);
  require_matrix(rows, packed.k, ld);
  require(row_begin >= 0 && row_begin <= packed.rows - rows, "{}: rows {} to {} of {}", what, row_begin,
          row_begin + rows, packed.rows);
  const auto size = static_cast<std::int64_t>(dtype_size(packed.dtype));
  if (packed.k == 0) return;
  if (packed.pattern.is_dense()) {
    for (std::int64_t row = 0; row < rows; ++row) {
      std::memcpy(row_at<std::uint8_t>(dense, row, ld, size),
                  row_at<const std::uint8_t>(packed.values, row_begin + row, packed.k, size),
                  static_cast<std::size_t>(packed.k * size));
    }
    return;
  }
  for_each_packed_row(packed, row_begin, rows,
                      [&](RowCodec& codec, std::int64_t row, const void* values, const std::uint8_t* codes) {
                        codec.unpack(values, codes, row_at<std::uint8_t>(dense, row - row_begin, ld, size),
                                     row, what);
                      });
}

void validate_packed(const PackedView& packed, const std::string& what) {
  magnitude_bits(packed.dtype);
  if (packed.pattern.is_dense() || packed.k == 0) return;
  for_each_packed_row(packed, 0, packed.rows,
                      [&](RowCodec& codec, std::int64_t row, const void* values, const std::uint8_t* codes) {
                        codec.validate(values, codes, row, what);
                      });
}

std::optional<PatternViolation> find_violation(Pattern pattern, DType dtype, const void* dense,
                                               std::int64_t rows, std::int64_t k, std::int64_t ld) {
  magnitude_bits(dtype);
  require_matrix(rows, k, ld);
  if (pattern.is_dense()) return std::nullopt;
  RowCodec codec(pattern, dtype, k);
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto group = codec.find_violation(
        row_at<const std::uint8_t>(dense, row, ld, static_cast<std::int64_t>(dtype_size(dtype))));
    if (!group) continue;
    const std::vector<int> lanes = codec.non_zero_lanes(*group);
    return PatternViolation{row, *group, static_cast<int>(lanes.size()),
                            fmt::format("{}", fmt::join(lanes, ","))};
  }
  return std::nullopt;
}

Pattern find_pattern(DType dtype, const void* dense, std::int64_t rows, std::int64_t k, std::int64_t ld) {
  // A pattern that does not fit is nearly always refused within the first groups, so one pass a pattern is
  // cheap.
  for (int n = 2; n <= 8; ++n) {
    const Pattern pattern = Pattern::of_half_group(n);
    if (!find_violation(pattern, dtype, dense, rows, k, ld)) return pattern;
  }
  return Pattern();
}

}  // namespace slidesparse
