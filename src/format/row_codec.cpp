#include "format/row_codec.h"

#include <algorithm>

#include "core/fail.h"
#include "format/group_masks.h"

namespace slidesparse {
namespace {

std::uint8_t* bytes_of(std::vector<std::uint64_t>& words) {
  return reinterpret_cast<std::uint8_t*>(words.data());
}

}  // namespace

unsigned magnitude_bits(DType dtype) {
  switch (dtype) {
    case DType::kI8:
      return 0xffu;
    case DType::kF8E4M3:
      return 0x7fu;
    case DType::kF16:
    case DType::kBF16:
      return 0x7fffu;
    default:
      fail_input("dtype {} cannot be packed: I8, F8_E4M3, F16 and BF16 can", dtype_name(dtype));
  }
}

RowCodec::RowCodec(Pattern pattern, DType dtype, std::int64_t k)
    : pattern_(pattern),
      element_size_(dtype_size(dtype)),
      magnitude_(magnitude_bits(dtype)),
      k_(k),
      groups_(pattern.groups(k)),
      kernels_(row_kernels(active_isa(), element_size_)) {
  require(!pattern.is_dense() && k >= 0, "RowCodec: pattern {} with {} channels", pattern.to_string(), k);
  const auto words = static_cast<std::size_t>(mask_bytes(pattern.half_group(), groups_) / 8 + 1);
  any_.resize(words);
  real_.resize(words);
  keep_.resize(words);
}

std::optional<std::int64_t> RowCodec::pack(const void* row, void* values, std::uint8_t* codes,
                                           PackReport& report) {
  if (k_ == 0) return std::nullopt;
  const std::int64_t non_zeros = kernels_.scan(row, k_, magnitude_, any_.data(), real_.data());
  std::int64_t negative_zeros = 0;
  const std::int64_t crowded = for_half_group(pattern_, [&]<int N>() {
    return choose_lanes<N>(bytes_of(any_), bytes_of(real_), groups_, bytes_of(keep_), codes, negative_zeros);
  });
  if (crowded >= 0) return crowded;
  // The last block chose lanes for groups that do not exist.
  const std::int64_t lanes = groups_ * pattern_.group();
  if (lanes % 64 != 0) keep_[static_cast<std::size_t>(lanes / 64)] &= (std::uint64_t{1} << (lanes % 64)) - 1;
  kernels_.compress(row, k_, keep_.data(), (lanes + 63) / 64, values, pattern_.values_per_row(k_));
  report += {non_zeros, negative_zeros};
  return std::nullopt;
}

void RowCodec::validate(const void* values, const std::uint8_t* codes, std::int64_t row_number,
                        const std::string& what) {
  const std::int64_t bad =
      for_half_group(pattern_, [&]<int N>() { return lanes_of_codes<N>(codes, groups_, bytes_of(keep_)); });
  if (bad >= 0) {
    fail_input("{}: row {}, group {}: code {} names no mask of {} (there are {}): the codes are damaged",
               what, row_number, bad, read_code(codes, pattern_.code_bits(), bad), pattern_.to_string(),
               code_count(pattern_));
  }
  const std::int64_t used_bits = groups_ * pattern_.code_bits();
  if (used_bits % 8 != 0 && codes[used_bits / 8] >> (used_bits % 8) != 0) {
    fail_input(
        "{}: row {}: bits behind the last code are set (byte {} is {:#04x}, {} bits of it are used): the "
        "codes "
        "are damaged",
        what, row_number, used_bits / 8, codes[used_bits / 8], used_bits % 8);
  }
  const std::int64_t tail = k_ % pattern_.group();
  if (tail == 0) return;
  const DroppedPair dropped = decode_pair(read_code(codes, pattern_.code_bits(), groups_ - 1));
  const auto* value = static_cast<const std::uint8_t*>(values) +
                      static_cast<std::size_t>((groups_ - 1) * pattern_.kept()) * element_size_;
  for (int lane = 0; lane < pattern_.group(); ++lane) {
    if (lane == dropped.a || lane == dropped.b) continue;
    if (lane >= tail &&
        std::any_of(value, value + element_size_, [](std::uint8_t byte) { return byte != 0; })) {
      fail_input(
          "{}: row {}, group {}: lane {} lies behind the last of {} channels and holds a value: padding must "
          "be "
          "zero",
          what, row_number, groups_ - 1, lane, k_);
    }
    value += element_size_;
  }
}

void RowCodec::unpack(const void* values, const std::uint8_t* codes, void* row, std::int64_t row_number,
                      const std::string& what) {
  if (k_ == 0) return;
  validate(values, codes, row_number, what);
  kernels_.expand(values, pattern_.values_per_row(k_), keep_.data(), row, k_);
}

std::optional<std::int64_t> RowCodec::find_violation(const void* row) {
  kernels_.scan(row, k_, magnitude_, any_.data(), real_.data());
  const std::int64_t crowded =
      for_half_group(pattern_, [&]<int N>() { return find_crowded_group<N>(bytes_of(real_), groups_); });
  return crowded >= 0 ? std::optional(crowded) : std::nullopt;
}

std::vector<int> RowCodec::non_zero_lanes(std::int64_t group) const {
  std::vector<int> lanes;
  for (int lane = 0; lane < pattern_.group(); ++lane) {
    const std::int64_t at = group * pattern_.group() + lane;
    if ((real_[static_cast<std::size_t>(at / 64)] >> (at % 64) & 1u) != 0) lanes.push_back(lane);
  }
  return lanes;
}

}  // namespace slidesparse
