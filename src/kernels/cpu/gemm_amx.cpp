#include "kernels/cpu/gemm_avx512.h"

// Products on AMX tiles: C[16 rows, 16 tokens] += A[16 rows, 64 bytes] B[64 bytes, 16 tokens]. A is a piece
// of the panel as it lies. B wants four bytes (two BF16) of each of 16 tokens side by side, so tokens are
// arranged once, in groups of 16, for all panels. C lies in the block of sums [tokens, rows] that it belongs
// to, transposed until the last chunk is in.
namespace slidesparse {
namespace {

constexpr std::int64_t kTile = 16;  // rows of a tile, and 4-byte columns
constexpr std::int64_t kStepBytes = 64;
constexpr std::int64_t kTileBytes = kTile * kStepBytes;
constexpr std::int64_t kGroup = kTokenGroup;
static_assert(kGroup == kTile);

// The intrinsics' assembly does not say that it reads and writes memory.
inline void fence() {
  asm volatile("" ::: "memory");
}

// Eight tiles of 16 rows of 64 bytes, for as long as this lives.
class Tiles {
 public:
  Tiles() {
    struct alignas(64) {
      std::uint8_t palette = 1;
      std::uint8_t start_row = 0;
      std::uint8_t reserved[14] = {};
      std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } const config;
    static_assert(sizeof(config) == 64);
    fence();
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// 16 x 16 dwords, strides in bytes; may be in place.
void transpose(const std::byte* from, std::int64_t from_stride, std::byte* to, std::int64_t to_stride) {
  __m512i a[16];
  __m512i b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(from + i * from_stride);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  // a[4 q + c]: 16-byte lane l holds column 4 l + c of rows 4 q .. 4 q + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i low01 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x44);
    const __m512i high01 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xee);
    const __m512i low23 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x44);
    const __m512i high23 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xee);
    b[c] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    b[4 + c] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
    b[8 + c] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    b[12 + c] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + i * to_stride, b[i]);
}

void arrange(std::byte* group, std::int64_t row_bytes, std::byte* scratch) {
  __builtin_memcpy(scratch, group, static_cast<std::size_t>(kGroup * row_bytes));
  for (std::int64_t step = 0; step < row_bytes / kStepBytes; ++step)
    transpose(scratch + step * kStepBytes, row_bytes, group + step * kTileBytes, kStepBytes);
}

// C tiles 0 .. 3 are (rows 0, tokens 0), (rows 0, tokens 1), (rows 1, tokens 0), (rows 1, tokens 1).
template <bool kIntegers>
inline void multiply_1x1() {
  if constexpr (kIntegers) {
    _tile_dpbssd(0, 4, 6);
  } else {
    _tile_dpbf16ps(0, 4, 6);
  }
}
template <bool kIntegers>
inline void multiply_2x2() {
  if constexpr (kIntegers) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  } else {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

// 32 rows and 32 tokens. Strides in bytes.
template <bool kIntegers>
void tile_2x2(const std::byte* w, std::int64_t w_stride, const std::byte* x, std::int64_t x_group_bytes,
              std::int64_t steps, bool first, std::byte* sums, std::int64_t ld) {
  std::byte* const right = sums + kTile * 4;  // the next 16 rows are the next 16 columns of the sums
  fence();
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, ld);
    _tile_loadd(1, sums + kTile * ld, ld);
    _tile_loadd(2, right, ld);
    _tile_loadd(3, right + kTile * ld, ld);
  }
  for (std::int64_t step = 0; step < steps; ++step) {
    _tile_loadd(4, w + step * kStepBytes, w_stride);
    _tile_loadd(5, w + kTile * w_stride + step * kStepBytes, w_stride);
    _tile_loadd(6, x + step * kTileBytes, kStepBytes);
    _tile_loadd(7, x + x_group_bytes + step * kTileBytes, kStepBytes);
    multiply_2x2<kIntegers>();
  }
  _tile_stored(0, sums, ld);
  _tile_stored(1, sums + kTile * ld, ld);
  _tile_stored(2, right, ld);
  _tile_stored(3, right + kTile * ld, ld);
  fence();
}

// 16 rows and 16 tokens: what is left at the edges.
template <bool kIntegers>
void tile_1x1(const std::byte* w, std::int64_t w_stride, const std::byte* x, std::int64_t steps, bool first,
              std::byte* sums, std::int64_t ld) {
  fence();
  if (first) {
    _tile_zero(0);
  } else {
    _tile_loadd(0, sums, ld);
  }
  for (std::int64_t step = 0; step < steps; ++step) {
    _tile_loadd(4, w + step * kStepBytes, w_stride);
    _tile_loadd(6, x + step * kTileBytes, kStepBytes);
    multiply_1x1<kIntegers>();
  }
  _tile_stored(0, sums, ld);
  fence();
}

template <bool kIntegers>
void tile(const void* panel, std::int64_t panel_stride, std::int64_t rows, const void* x,
          std::int64_t x_stride, std::int64_t tokens, std::int64_t blocks, bool first, bool last, void* sums,
          std::int64_t ld) {
  constexpr std::int64_t kElement = kIntegers ? 1 : 2;
  const Tiles tiles;
  const auto* w = static_cast<const std::byte*>(panel);
  const auto* from = static_cast<const std::byte*>(x);
  auto* to = static_cast<std::byte*>(sums);
  const std::int64_t w_stride = panel_stride * kElement;
  const std::int64_t group_bytes = kGroup * x_stride * kElement;
  const std::int64_t steps = blocks * kBlockSlots * kElement / kStepBytes;
  const std::int64_t to_stride = ld * 4;
  const std::int64_t row_tiles = (rows + kTile - 1) / kTile;
  const std::int64_t groups = (tokens + kGroup - 1) / kGroup;
  for (std::int64_t row = 0; row < row_tiles; row += 2) {
    for (std::int64_t group = 0; group < groups; group += 2) {
      const std::byte* w_here = w + row * kTile * w_stride;
      const std::byte* x_here = from + group * group_bytes;
      std::byte* sums_here = to + group * kGroup * to_stride + row * kTile * 4;
      if (row + 2 <= row_tiles && group + 2 <= groups) {
        tile_2x2<kIntegers>(w_here, w_stride, x_here, group_bytes, steps, first, sums_here, to_stride);
        continue;
      }
      for (std::int64_t r = 0; r < 2 && row + r < row_tiles; ++r) {
        for (std::int64_t g = 0; g < 2 && group + g < groups; ++g) {
          tile_1x1<kIntegers>(w_here + r * kTile * w_stride, w_stride, x_here + g * group_bytes, steps, first,
                              sums_here + g * kGroup * to_stride + r * kTile * 4, to_stride);
        }
      }
    }
  }
  if (!last) return;
  for (std::int64_t group = 0; group < groups; ++group) {
    for (std::int64_t row = 0; row < row_tiles; ++row) {
      std::byte* block = to + group * kGroup * to_stride + row * kTile * 4;
      transpose(block, to_stride, block, to_stride);
    }
  }
}

template <bool kIntegers>
std::int64_t peak(std::int64_t rounds) {
  const Tiles tiles;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  // A tile product is 16 times the work of a register's.
  const std::int64_t tile_rounds = rounds / 16;
  for (std::int64_t round = 0; round < tile_rounds; ++round) multiply_2x2<kIntegers>();
  return tile_rounds * 4 * kTile * kTile * (kIntegers ? 64 : 32) * 2;
}

// Signed bytes as they are stored.
struct SignedBytes {
  using Panel = std::uint8_t;
  static constexpr int kBytes = 1;
  static void store_panel(Panel* to, __m512i w) { _mm512_store_si512(to, w); }
  static __m512i load_packed(const std::uint8_t* values, std::uint64_t mask, std::int64_t available) {
    const __m512i kept = _mm512_maskz_loadu_epi8(avx512::first_lanes(available), values);
    return _mm512_maskz_expand_epi8(_cvtu64_mask64(mask), kept);
  }
  static __m512i load_dense(const std::uint8_t* values, std::int64_t available) {
    return _mm512_maskz_loadu_epi8(avx512::first_lanes(available), values);
  }
};

GemmKernels amx_kernels(DType dtype) {
  GemmKernels kernels;
  if (dtype == DType::kI8) {
    kernels.expand = avx512::expand<SignedBytes>;
    kernels.tile_arranged = tile<true>;
    kernels.peak = peak<true>;
  } else {
    const GemmKernels& wide = gemm_kernels(Isa::kAvx512, dtype);
    kernels.expand = wide.expand;
    kernels.widen = wide.widen;
    kernels.tile_arranged = tile<false>;
    kernels.peak = peak<false>;
  }
  kernels.isa = Isa::kAvx512;
  kernels.arrange = arrange;
  return kernels;
}

}  // namespace

const GemmKernels& amx_gemm_kernels(DType dtype) {
  static const GemmKernels kI8 = amx_kernels(DType::kI8);
  static const GemmKernels kF8 = amx_kernels(DType::kF8E4M3);
  static const GemmKernels kBf16 = amx_kernels(DType::kBF16);
  return dtype == DType::kI8 ? kI8 : dtype == DType::kF8E4M3 ? kF8 : kBf16;
}

}  // namespace slidesparse
