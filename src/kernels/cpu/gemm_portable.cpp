#include <cstring>

#include "core/numeric.h"
#include "kernels/cpu/gemm_kernels.h"
#include "slidesparse/format/codes.h"

namespace slidesparse {
namespace {

constexpr int kPartials = 16;

float panel_value(const std::uint8_t* element, DType dtype) {
  if (dtype == DType::kF8E4M3) return e4m3_to_float(*element);
  std::uint16_t bits = 0;
  std::memcpy(&bits, element, sizeof(bits));
  return bf16_to_float(bits);
}

template <DType D>
struct Traits {
  using Panel = std::uint16_t;
  using Sum = float;
  static constexpr int kBytes = D == DType::kBF16 ? 2 : 1;
  // Exact: every E4M3 value is a BF16 value.
  static Panel panel(const std::uint8_t* element) { return float_to_bf16(panel_value(element, D)); }
  static Sum product(Panel w, Panel x) { return bf16_to_float(w) * bf16_to_float(x); }
};
template <>
struct Traits<DType::kI8> {
  using Panel = std::int8_t;
  using Sum = std::int32_t;
  static constexpr int kBytes = 1;
  static Panel panel(const std::uint8_t* element) { return static_cast<std::int8_t>(*element); }
  static Sum product(Panel w, Panel x) { return static_cast<Sum>(w) * static_cast<Sum>(x); }
};

template <DType D>
void expand(const GemmRows& rows, std::int64_t row, std::int64_t first, std::int64_t count, void* panel) {
  using T = Traits<D>;
  auto* out = static_cast<typename T::Panel*>(panel);
  std::memset(out, 0, static_cast<std::size_t>(count * kBlockSlots) * sizeof(*out));
  const std::uint8_t* values = rows.values + row * rows.value_stride;
  const std::int64_t packed_end = first + count < rows.packed_blocks ? first + count : rows.packed_blocks;
  if (first < packed_end) {
    const Pattern pattern = Pattern::of_half_group(rows.half_group);
    const std::int64_t groups = rows.packed_values / pattern.kept();
    const std::int64_t a_block = block_groups(rows.half_group);
    const std::uint8_t* codes = rows.codes + row * rows.code_stride;
    for (std::int64_t g = first * a_block; g < packed_end * a_block && g < groups; ++g) {
      const DroppedPair dropped = decode_pair(read_code(codes, pattern.code_bits(), g));
      const std::uint8_t* value = values + g * pattern.kept() * T::kBytes;
      auto* lanes = out + (g / a_block - first) * kBlockSlots + g % a_block * pattern.group();
      for (int lane = 0; lane < pattern.group(); ++lane) {
        if (lane == dropped.a || lane == dropped.b) continue;
        lanes[lane] = T::panel(value);
        value += T::kBytes;
      }
    }
  }
  const std::uint8_t* dense = values + rows.packed_values * T::kBytes;
  for (std::int64_t block = packed_end > first ? packed_end : first; block < first + count; ++block) {
    const std::int64_t lane = (block - rows.packed_blocks) * kBlockSlots;
    for (std::int64_t i = 0; i < kBlockSlots && lane + i < rows.dense_lanes; ++i) {
      out[(block - first) * kBlockSlots + i] = T::panel(dense + (lane + i) * T::kBytes);
    }
  }
}

void widen(const std::uint8_t* x, std::int64_t blocks, std::uint16_t* out) {
  for (std::int64_t i = 0; i < blocks * kBlockSlots; ++i) out[i] = float_to_bf16(e4m3_to_float(x[i]));
}

template <DType D>
void tile(const void* panel, std::int64_t panel_stride, std::int64_t rows, const void* x,
          std::int64_t x_stride, std::int64_t tokens, std::int64_t blocks, bool first, void* sums,
          std::int64_t ld) {
  using T = Traits<D>;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const auto* token = static_cast<const typename T::Panel*>(x) + t * x_stride;
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto* row = static_cast<const typename T::Panel*>(panel) + r * panel_stride;
      typename T::Sum partial[kPartials] = {};
      for (std::int64_t i = 0; i < blocks * kBlockSlots; i += kPartials) {
        for (int j = 0; j < kPartials; ++j) partial[j] += T::product(row[i + j], token[i + j]);
      }
      typename T::Sum sum = 0;
      for (const auto value : partial) sum += value;
      auto& out = static_cast<typename T::Sum*>(sums)[t * ld + r];
      out = first ? sum : out + sum;
    }
  }
}

template <DType D>
const GemmKernels& kernels_of() {
  static const GemmKernels kKernels{Isa::kPortable, 0,      expand<D>, D == DType::kF8E4M3 ? widen : nullptr,
                                    tile<D>,        nullptr};
  return kKernels;
}

}  // namespace

const GemmKernels& portable_gemm_kernels(DType dtype) {
  if (dtype == DType::kI8) return kernels_of<DType::kI8>();
  if (dtype == DType::kF8E4M3) return kernels_of<DType::kF8E4M3>();
  return kernels_of<DType::kBF16>();
}

}  // namespace slidesparse
