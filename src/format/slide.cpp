#include "slidesparse/format/slide.h"

#include <algorithm>
#include <cstring>

#include "core/fail.h"
#include "slidesparse/format/codes.h"

namespace slidesparse {
namespace {

// The 2-bit indices of one group, slot i at bits 2i: 2 * kept bits, at most 28.
std::uint32_t indices_of_code(Pattern pattern, int code) {
  const std::uint32_t kept = kept_mask(pattern, code);
  std::uint32_t indices = 0;
  int slot = 0;
  for (int lane = 0; lane < pattern.group(); ++lane) {
    if ((kept >> lane & 1u) == 0) continue;
    indices |= static_cast<std::uint32_t>(lane - slot / 2 * 2) << (2 * slot);
    ++slot;
  }
  return indices;
}

// The code whose indices these are, or -1: slots must lie in ascending lanes.
int code_of_indices(Pattern pattern, std::uint32_t indices) {
  std::uint32_t kept = 0;
  int last = -1;
  for (int slot = 0; slot < pattern.kept(); ++slot) {
    const int lane = slot / 2 * 2 + static_cast<int>(indices >> (2 * slot) & 3u);
    if (lane <= last) return -1;
    last = lane;
    kept |= 1u << lane;
  }
  for (int code = 0; code < code_count(pattern); ++code) {
    if (kept_mask(pattern, code) == kept) return code;
  }
  return -1;
}

// Ors the low bits of `value` into a zeroed byte string at bit `at`, least significant bits first.
void put_bits(std::uint8_t* bytes, std::int64_t at, int bits, std::uint32_t value) {
  std::uint64_t word = static_cast<std::uint64_t>(value) << (at % 8);
  for (std::int64_t byte = at / 8; byte <= (at + bits - 1) / 8; ++byte, word >>= 8) {
    bytes[byte] = static_cast<std::uint8_t>(bytes[byte] | (word & 0xffu));
  }
}

std::uint32_t get_bits(const std::uint8_t* bytes, std::int64_t at, int bits) {
  std::uint64_t word = 0;
  for (std::int64_t byte = (at + bits - 1) / 8; byte >= at / 8; --byte) word = word << 8 | bytes[byte];
  return static_cast<std::uint32_t>(word >> (at % 8)) & ((1u << bits) - 1u);
}

// The code of one group's metadata; throws when it is none.
int checked_code(Pattern pattern, const std::uint8_t* row_metadata, std::int64_t row, std::int64_t group) {
  const int bits = 2 * pattern.kept();
  const std::uint32_t indices = get_bits(row_metadata, group * bits, bits);
  const int code = code_of_indices(pattern, indices);
  if (code < 0) {
    fail_input(
        "2:4 metadata of {}: row {}, group {}: indices {:#x} (2 bits a slot, lowest first) are no mask: "
        "slots must "
        "lie in ascending lanes",
        pattern.to_string(), row, group, indices);
  }
  return code;
}

template <typename T>
void expand_slid_rows(Pattern pattern, std::int64_t rows, std::int64_t k, const T* values,
                      const std::uint8_t* metadata, T* slid) {
  const std::int64_t groups = pattern.groups(k);
  const std::int64_t width = 4 * (pattern.half_group() - 1);
  std::fill(slid, slid + rows * groups * width, T{0});
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::uint8_t* row_metadata = metadata + row * slide_metadata_bytes_per_row(pattern, k);
    for (std::int64_t group = 0; group < groups; ++group) {
      checked_code(pattern, row_metadata, row, group);
      const int bits = 2 * pattern.kept();
      const std::uint32_t indices = get_bits(row_metadata, group * bits, bits);
      for (int slot = 0; slot < pattern.kept(); ++slot)
        slid[slot / 2 * 4 + (indices >> (2 * slot) & 3u)] = *values++;
      slid += width;
    }
  }
}

template <typename T>
void lift_typed_rows(Pattern pattern, const T* x, std::int64_t m, std::int64_t k, std::int64_t ldx, T* out) {
  const int windows = pattern.half_group() - 1;
  for (std::int64_t row = 0; row < m; ++row, x += ldx) {
    for (std::int64_t group = 0; group < pattern.groups(k); ++group) {
      for (int window = 0; window < windows; ++window, out += 4) {
        const std::int64_t lane = group * pattern.group() + 2 * window;
        if (lane + 4 <= k) {
          std::memcpy(out, x + lane, 4 * sizeof(T));
        } else {
          for (int i = 0; i < 4; ++i) out[i] = lane + i < k ? x[lane + i] : T{0};
        }
      }
    }
  }
}

}  // namespace

void slide_metadata(const PackedView& packed, std::uint8_t* metadata) {
  const Pattern pattern = packed.pattern;
  if (pattern.is_dense()) fail_input("a dense matrix has no 2:4 metadata: only kept:group patterns slide");
  const int bits = 2 * pattern.kept();
  std::array<std::uint32_t, 128> indices{};
  for (int code = 0; code < code_count(pattern); ++code) {
    indices[static_cast<std::size_t>(code)] = indices_of_code(pattern, code);
  }
  const std::int64_t row_bytes = slide_metadata_bytes_per_row(pattern, packed.k);
  std::memset(metadata, 0, static_cast<std::size_t>(packed.rows * row_bytes));
  for (std::int64_t row = 0; row < packed.rows; ++row) {
    const std::uint8_t* codes = packed.codes + row * pattern.code_bytes_per_row(packed.k);
    for (std::int64_t group = 0; group < pattern.groups(packed.k); ++group) {
      const int code = read_code(codes, pattern.code_bits(), group);
      if (code >= code_count(pattern)) {
        fail_input("row {}, group {}: code {} names no mask of {} (there are {}): the codes are damaged", row,
                   group, code, pattern.to_string(), code_count(pattern));
      }
      put_bits(metadata + row * row_bytes, group * bits, bits, indices[static_cast<std::size_t>(code)]);
    }
  }
}

void codes_from_metadata(Pattern pattern, std::int64_t rows, std::int64_t k, const std::uint8_t* metadata,
                         std::uint8_t* codes) {
  if (pattern.is_dense()) fail_input("a dense matrix has no codes: only kept:group patterns slide");
  const int bits = pattern.code_bits();
  const std::int64_t row_bytes = pattern.code_bytes_per_row(k);
  std::memset(codes, 0, static_cast<std::size_t>(rows * row_bytes));
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::uint8_t* row_metadata = metadata + row * slide_metadata_bytes_per_row(pattern, k);
    for (std::int64_t group = 0; group < pattern.groups(k); ++group) {
      const int code = checked_code(pattern, row_metadata, row, group);
      put_bits(codes + row * row_bytes, group * bits, bits, static_cast<std::uint32_t>(code));
    }
  }
}

void expand_slid(Pattern pattern, DType dtype, std::int64_t rows, std::int64_t k, const void* values,
                 const std::uint8_t* metadata, void* slid) {
  const std::size_t size = dtype_size(dtype);
  if (pattern.is_dense()) {
    std::memcpy(slid, values, static_cast<std::size_t>(rows * k) * size);
  } else if (size == 1) {
    expand_slid_rows(pattern, rows, k, static_cast<const std::uint8_t*>(values), metadata,
                     static_cast<std::uint8_t*>(slid));
  } else if (size == 2) {
    expand_slid_rows(pattern, rows, k, static_cast<const std::uint16_t*>(values), metadata,
                     static_cast<std::uint16_t*>(slid));
  } else {
    fail_input("dtype {} cannot be slid: elements must have 1 or 2 bytes", dtype_name(dtype));
  }
}

void lift_rows(Pattern pattern, DType dtype, const void* x, std::int64_t m, std::int64_t k, std::int64_t ldx,
               void* out) {
  const std::size_t size = dtype_size(dtype);
  if (pattern.is_dense()) {
    for (std::int64_t row = 0; row < m; ++row) {
      const std::size_t bytes = static_cast<std::size_t>(k) * size;
      std::memcpy(static_cast<std::uint8_t*>(out) + static_cast<std::size_t>(row) * bytes,
                  static_cast<const std::uint8_t*>(x) + static_cast<std::size_t>(row * ldx) * size, bytes);
    }
    return;
  }
  switch (size) {
    case 1:
      return lift_typed_rows(pattern, static_cast<const std::uint8_t*>(x), m, k, ldx,
                             static_cast<std::uint8_t*>(out));
    case 2:
      return lift_typed_rows(pattern, static_cast<const std::uint16_t*>(x), m, k, ldx,
                             static_cast<std::uint16_t*>(out));
    case 4:
      return lift_typed_rows(pattern, static_cast<const std::uint32_t*>(x), m, k, ldx,
                             static_cast<std::uint32_t*>(out));
    default:
      fail_input("dtype {} cannot be lifted: elements must have 1, 2 or 4 bytes", dtype_name(dtype));
  }
}

}  // namespace slidesparse
