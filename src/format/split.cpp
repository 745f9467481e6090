#include "slidesparse/format/split.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/fail.h"
#include "format/row_codec.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kSparseMultiple = 64;  // K of one sparse 8-bit tensor-core instruction
constexpr Pattern kQuads = Pattern::of_half_group(2);

void require_shape(const SplitShape& shape, const std::string& what) {
  require(shape.sparse >= 0 && shape.dense >= 0 && shape.sparse % kSparseMultiple == 0 &&
              shape.sparse + shape.dense == shape.k,
          "{}: split of {} channels into {} sparse and {} dense", what, shape.k, shape.sparse, shape.dense);
}

template <typename T>
void gather(const T* row, std::span<const std::int32_t> channels, T* out) {
  for (std::size_t i = 0; i < channels.size(); ++i) out[i] = row[channels[i]];
}

template <typename T>
void scatter(const T* in, std::span<const std::int32_t> channels, T* row) {
  for (std::size_t i = 0; i < channels.size(); ++i) row[channels[i]] = in[i];
}

[[noreturn]] void fail_quad(const std::string& what, std::int64_t row, std::int64_t quad,
                            const std::vector<int>& lanes, std::span<const std::int32_t> perm) {
  const auto first = static_cast<std::size_t>(quad * 4);
  std::vector<std::int32_t> non_zeros;
  non_zeros.reserve(lanes.size());
  for (const int lane : lanes) non_zeros.push_back(perm[first + static_cast<std::size_t>(lane)]);
  fail_input(
      "{}: row {}, quad {} (channels {}) has {} non-zeros, in channels {}; the sparse part of a split layer "
      "keeps "
      "at most 2 of 4: prune it first",
      what, row, quad, fmt::join(perm.subspan(first, 4), ","), lanes.size(), fmt::join(non_zeros, ","));
}

template <typename T>
PackReport pack_typed(const SplitShape& shape, std::span<const std::int32_t> perm, DType dtype,
                      const T* dense, std::int64_t rows, std::int64_t ld, T* values, std::uint8_t* codes,
                      std::int64_t first_row, const std::string& what) {
  const auto sparse = perm.first(static_cast<std::size_t>(shape.sparse));
  const auto rest = perm.subspan(static_cast<std::size_t>(shape.sparse));
  const auto magnitude = static_cast<T>(magnitude_bits(dtype));
  RowCodec codec(kQuads, dtype, shape.sparse);
  std::vector<T> lanes(sparse.size());
  PackReport report;
  for (std::int64_t row = 0; row < rows; ++row, dense += ld, values += shape.values_per_row()) {
    gather(dense, sparse, lanes.data());
    const auto crowded = codec.pack(lanes.data(), values, codes + row * shape.code_bytes_per_row(), report);
    if (crowded) fail_quad(what, first_row + row, *crowded, codec.non_zero_lanes(*crowded), perm);
    T* const copied = values + shape.sparse / 2;
    gather(dense, rest, copied);
    report.non_zeros += std::count_if(copied, copied + shape.dense,
                                      [magnitude](T value) { return (value & magnitude) != 0; });
  }
  return report;
}

template <typename T>
void unpack_typed(const SplitShape& shape, std::span<const std::int32_t> perm, DType dtype, const T* values,
                  const std::uint8_t* codes, std::int64_t rows, T* out, std::int64_t ld,
                  const std::string& what) {
  const auto sparse = perm.first(static_cast<std::size_t>(shape.sparse));
  const auto rest = perm.subspan(static_cast<std::size_t>(shape.sparse));
  RowCodec codec(kQuads, dtype, shape.sparse);
  std::vector<T> lanes(sparse.size());
  for (std::int64_t row = 0; row < rows; ++row, out += ld, values += shape.values_per_row()) {
    codec.unpack(values, codes + row * shape.code_bytes_per_row(), lanes.data(), row, what);
    scatter(lanes.data(), sparse, out);
    scatter(values + shape.sparse / 2, rest, out);
  }
}

}  // namespace

SplitShape split_shape(Pattern pattern, std::int64_t k) {
  SplitShape shape{pattern, k, 0, k};
  if (pattern.is_dense()) return shape;
  // 4 of 2N channels = 2 of N; divided first so that no k overflows.
  const std::int64_t n = pattern.half_group();
  shape.sparse = (k / n * 2 + k % n * 2 / n) / kSparseMultiple * kSparseMultiple;
  shape.dense = k - shape.sparse;
  return shape;
}

void validate_perm(const SplitShape& shape, std::span<const std::int32_t> perm, const std::string& what) {
  require_shape(shape, what);
  if (static_cast<std::int64_t>(perm.size()) != shape.k) {
    fail_input("{}: the permutation has {} entries for {} channels", what, perm.size(), shape.k);
  }
  std::vector<bool> seen(perm.size());
  for (std::size_t i = 0; i < perm.size(); ++i) {
    if (perm[i] < 0 || perm[i] >= shape.k) {
      fail_input("{}: entry {} of the permutation is {}, outside 0..{}", what, i, perm[i], shape.k - 1);
    }
    if (seen[static_cast<std::size_t>(perm[i])]) {
      fail_input("{}: entry {} of the permutation repeats channel {}", what, i, perm[i]);
    }
    seen[static_cast<std::size_t>(perm[i])] = true;
    if (static_cast<std::int64_t>(i) > shape.sparse && perm[i] < perm[i - 1]) {
      fail_input("{}: entry {} of the permutation is {}, after {}: the {} dense channels must ascend", what,
                 i, perm[i], perm[i - 1], shape.dense);
    }
  }
}

PackReport split_pack_rows(const SplitShape& shape, std::span<const std::int32_t> perm, DType dtype,
                           const void* dense, std::int64_t rows, std::int64_t ld, void* values,
                           std::uint8_t* codes, std::int64_t first_row, const std::string& what) {
  magnitude_bits(dtype);
  validate_perm(shape, perm, what);
  if (dtype_size(dtype) == 1) {
    return pack_typed(shape, perm, dtype, static_cast<const std::uint8_t*>(dense), rows, ld,
                      static_cast<std::uint8_t*>(values), codes, first_row, what);
  }
  return pack_typed(shape, perm, dtype, static_cast<const std::uint16_t*>(dense), rows, ld,
                    static_cast<std::uint16_t*>(values), codes, first_row, what);
}

void split_unpack_rows(const SplitShape& shape, std::span<const std::int32_t> perm, DType dtype,
                       const void* values, const std::uint8_t* codes, std::int64_t rows, void* out,
                       std::int64_t ld, const std::string& what) {
  magnitude_bits(dtype);
  validate_perm(shape, perm, what);
  if (dtype_size(dtype) == 1) {
    return unpack_typed(shape, perm, dtype, static_cast<const std::uint8_t*>(values), codes, rows,
                        static_cast<std::uint8_t*>(out), ld, what);
  }
  unpack_typed(shape, perm, dtype, static_cast<const std::uint16_t*>(values), codes, rows,
               static_cast<std::uint16_t*>(out), ld, what);
}

}  // namespace slidesparse
