// Products of many tokens for AVX2. A panel's rows, six at a time, meet sixteen tokens at a time: every slot
// of a row is one broadcast, every slot of the tokens one load, and the twelve vectors of sums stay in
// registers:
//
//   tokens, arranged  | slot 0: t0 t1 ... t15 | slot 1: t0 ... t15 | ...          BF16; for I8 pairs of slots
//   rows, widened     | slot 0: r0 .. r5      | slot 1: r0 .. r5   | ...          FP32; for I8 pairs of INT16
//
// The order of summation is that of the slots, one sum a token and row.
#include <immintrin.h>

#include <cstring>

#include "kernels/cpu/gemm_kernels.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kStrip =
    6;  // rows; 2 * 6 sums, 2 vectors of tokens and a row's broadcast are 15 registers
constexpr std::int64_t kLanes = kTokenGroup;
constexpr std::int64_t kUnit = 2;  // bytes that are moved together when tokens are arranged: a BF16, two I8

// 8 x 8 units: rows from `in` (stride in units) to columns of `out` (stride in units).
void transpose_8x8(const std::uint16_t* in, std::int64_t in_stride, std::uint16_t* out,
                   std::int64_t out_stride) {
  __m128i a[8];
  __m128i b[8];
  for (int i = 0; i < 8; ++i) a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i * in_stride));
  for (int i = 0; i < 4; ++i) {
    b[2 * i] = _mm_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    a[4 * i] = _mm_unpacklo_epi32(b[4 * i], b[4 * i + 2]);
    a[4 * i + 1] = _mm_unpackhi_epi32(b[4 * i], b[4 * i + 2]);
    a[4 * i + 2] = _mm_unpacklo_epi32(b[4 * i + 1], b[4 * i + 3]);
    a[4 * i + 3] = _mm_unpackhi_epi32(b[4 * i + 1], b[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    const auto store = [&](int row, __m128i value) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + row * out_stride), value);
    };
    store(2 * i, _mm_unpacklo_epi64(a[i], a[i + 4]));
    store(2 * i + 1, _mm_unpackhi_epi64(a[i], a[i + 4]));
  }
}

void arrange(std::byte* group, std::int64_t row_bytes, std::byte* scratch) {
  const auto bytes = static_cast<std::size_t>(kLanes * row_bytes);
  std::memcpy(scratch, group, bytes);
  const auto* in = reinterpret_cast<const std::uint16_t*>(scratch);
  auto* out = reinterpret_cast<std::uint16_t*>(group);
  const std::int64_t units = row_bytes / kUnit;
  for (std::int64_t u = 0; u < units; u += 8) {
    for (std::int64_t t = 0; t < kLanes; t += 8)
      transpose_8x8(in + t * units + u, units, out + u * kLanes + t, kLanes);
  }
}

struct Bf16 {
  using Sum = float;
  using Sums = __m256;
  using Wide = float;                        // a unit of a row
  static constexpr std::int64_t kSlots = 1;  // of a unit

  static Sums zero() { return _mm256_setzero_ps(); }
  // A row's units, `step` apart.
  static void widen(const std::byte* row, std::int64_t units, Wide* out, std::int64_t step) {
    for (std::int64_t i = 0; i < units; ++i) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, row + i * kUnit, sizeof(bits));
      const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
      std::memcpy(out + i * step, &wide, sizeof(wide));
    }
  }
  // Even tokens, then odd ones.
  static void load(const std::uint16_t* from, Sums (&x)[2]) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    x[0] = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
    x[1] = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static Sums broadcast(const Wide* from) { return _mm256_broadcast_ss(from); }
  static Sums multiply_add(Sums acc, Sums w, Sums x) { return _mm256_fmadd_ps(w, x, acc); }
  // Of lane 0 .. 15 over both vectors.
  static int token_of(int lane) { return lane < 8 ? 2 * lane : 2 * lane - 15; }
  static void store(Sum* out, Sums sums) { _mm256_store_ps(out, sums); }
};

// Pairs of bytes become pairs of 16-bit integers: vpmaddubsw would saturate. Exact sums.
struct Int8 {
  using Sum = std::int32_t;
  using Sums = __m256i;
  using Wide = std::int32_t;
  static constexpr std::int64_t kSlots = 2;

  static Sums zero() { return _mm256_setzero_si256(); }
  static void widen(const std::byte* row, std::int64_t units, Wide* out, std::int64_t step) {
    const auto* values = reinterpret_cast<const std::int8_t*>(row);
    for (std::int64_t i = 0; i < units; ++i) {
      const auto low = static_cast<std::uint32_t>(static_cast<std::uint16_t>(values[2 * i]));
      const auto high = static_cast<std::uint32_t>(static_cast<std::uint16_t>(values[2 * i + 1]));
      out[i * step] = static_cast<Wide>(high << 16 | low);
    }
  }
  // The lower eight tokens, then the upper ones.
  static void load(const std::uint16_t* from, Sums (&x)[2]) {
    const auto* halves = reinterpret_cast<const __m128i*>(from);
    x[0] = _mm256_cvtepi8_epi16(_mm_loadu_si128(halves));
    x[1] = _mm256_cvtepi8_epi16(_mm_loadu_si128(halves + 1));
  }
  static Sums broadcast(const Wide* from) { return _mm256_set1_epi32(*from); }
  static Sums multiply_add(Sums acc, Sums w, Sums x) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(w, x));
  }
  static int token_of(int lane) { return lane; }
  static void store(Sum* out, Sums sums) { _mm256_store_si256(reinterpret_cast<__m256i*>(out), sums); }
};

// R rows, widened [units, R], times the sixteen tokens of a group, of which `tokens` are there.
template <typename D, int R>
void multiply(const typename D::Wide* w, const std::uint16_t* x, std::int64_t units, std::int64_t tokens,
              bool first, typename D::Sum* sums, std::int64_t ld) {
  // All loops over sums are unrolled: one that is not makes GCC keep them in memory.
  typename D::Sums acc[R][2];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    acc[r][0] = D::zero();
    acc[r][1] = D::zero();
  }
  for (std::int64_t i = 0; i < units; ++i) {
    typename D::Sums token[2];
    D::load(x + i * kLanes, token);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const auto row = D::broadcast(w + i * R + r);
      acc[r][0] = D::multiply_add(acc[r][0], row, token[0]);
      acc[r][1] = D::multiply_add(acc[r][1], row, token[1]);
    }
  }
  alignas(32) typename D::Sum lanes[R][kLanes];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    D::store(lanes[r], acc[r][0]);
    D::store(lanes[r] + kLanes / 2, acc[r][1]);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    const std::int64_t token = D::token_of(lane);
    if (token >= tokens) continue;
    for (int r = 0; r < R; ++r) {
      auto& out = sums[token * ld + r];
      out = first ? lanes[r][lane] : out + lanes[r][lane];
    }
  }
}

template <typename D>
auto strip_function(std::int64_t rows) {
  using Function = decltype(&multiply<D, 1>);
  static constexpr Function kFunctions[kStrip] = {multiply<D, 1>, multiply<D, 2>, multiply<D, 3>,
                                                  multiply<D, 4>, multiply<D, 5>, multiply<D, 6>};
  return kFunctions[rows - 1];
}

template <typename D>
void tile(const void* panel, std::int64_t panel_stride, std::int64_t rows, const void* x,
          std::int64_t x_stride, std::int64_t tokens, std::int64_t blocks, bool first, bool, void* sums,
          std::int64_t ld) {
  constexpr std::int64_t kChunkBlocks = D::kSlots == 2 ? kChunkBlocksInt8 : kChunkBlocksBf16;
  constexpr std::int64_t kElement = kUnit / D::kSlots;  // bytes
  alignas(64) typename D::Wide strip[kChunkBlocks * kBlockSlots / D::kSlots * kStrip];
  const auto* w = static_cast<const std::byte*>(panel);
  const auto* from = static_cast<const std::byte*>(x);
  auto* to = static_cast<typename D::Sum*>(sums);
  const std::int64_t units = blocks * kBlockSlots / D::kSlots;
  const std::int64_t group_bytes = kLanes * x_stride * kElement;
  for (std::int64_t r = 0; r < rows; r += kStrip) {
    const std::int64_t count = rows - r < kStrip ? rows - r : kStrip;
    for (std::int64_t i = 0; i < count; ++i)
      D::widen(w + (r + i) * panel_stride * kElement, units, strip + i, count);
    const auto run = strip_function<D>(count);
    for (std::int64_t t = 0; t < tokens; t += kLanes) {
      const auto* group = reinterpret_cast<const std::uint16_t*>(from + t / kLanes * group_bytes);
      run(strip, group, units, tokens - t, first, to + t * ld + r, ld);
    }
  }
}

GemmKernels tile_kernels(DType dtype) {
  GemmKernels kernels = avx2_gemm_kernels(dtype);
  kernels.tile = nullptr;
  kernels.tile_arranged = dtype == DType::kI8 ? tile<Int8> : tile<Bf16>;
  kernels.arrange = arrange;
  return kernels;
}

}  // namespace

const GemmKernels& avx2_tile_kernels(DType dtype) {
  static const GemmKernels kI8 = tile_kernels(DType::kI8);
  static const GemmKernels kF8 = tile_kernels(DType::kF8E4M3);
  static const GemmKernels kBf16 = tile_kernels(DType::kBF16);
  return dtype == DType::kI8 ? kI8 : dtype == DType::kF8E4M3 ? kF8 : kBf16;
}

}  // namespace slidesparse
