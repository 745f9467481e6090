#pragma once

#include <immintrin.h>

#include <array>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels/cpu/gemm_kernels.h"
#include "slidesparse/format/codes.h"

// The AVX-512 loops, written once for all dtypes: a dtype D says how a block of 64 slots becomes one or two
// registers and how two blocks are multiplied. Only the avx512 files include this.
namespace slidesparse::avx512 {

// What a block of pattern (2N-2):2N is made of.
template <int N>
struct BlockShape {
  static constexpr Pattern kPattern = Pattern::of_half_group(N);
  static constexpr int kGroups = static_cast<int>(block_groups(N));
  static constexpr int kKept = kGroups * kPattern.kept();
  static constexpr int kBits = kPattern.code_bits();
  // Eight blocks' codes begin and end on a byte.
  static constexpr int kOctCodeBytes = kGroups * kBits;
};

inline __mmask64 first_lanes(std::int64_t count) {
  return _cvtu64_mask64(_bzhi_u64(~std::uint64_t{0}, count < 0    ? 0u
                                                     : count > 64 ? 64u
                                                                  : static_cast<unsigned>(count)));
}

struct ByteTable {
  alignas(64) std::array<std::uint8_t, 64> bytes{};
};
struct WideByteTable {
  alignas(64) std::array<std::uint8_t, 128> bytes{};
};

inline __m512i load_table(const ByteTable& table) {
  return _mm512_load_si512(table.bytes.data());
}

// Byte (first bit of qword q's codes) / 8 + j for byte j of qword q: puts the codes of a block into a qword
// of its own.
template <int N>
constexpr ByteTable spread_table() {
  using Shape = BlockShape<N>;
  ByteTable table;
  for (std::size_t q = 0; q < 8; ++q) {
    for (std::size_t j = 0; j < 8; ++j) {
      table.bytes[8 * q + j] = static_cast<std::uint8_t>((q * Shape::kOctCodeBytes / 8 + j) & 63);
    }
  }
  return table;
}

// Bit at which field j of qword q begins, fields of `bits` bits.
template <int N>
constexpr ByteTable shift_table(std::size_t bits) {
  using Shape = BlockShape<N>;
  ByteTable table;
  for (std::size_t q = 0; q < 8; ++q) {
    for (std::size_t j = 0; j < 8; ++j) {
      table.bytes[8 * q + j] = static_cast<std::uint8_t>((q * Shape::kOctCodeBytes % 8 + j * bits) & 63);
    }
  }
  return table;
}

// For 2:4 two groups of 3 code bits make 8 lanes; for 6:8 one group of 5 does, whatever bit 5 holds.
template <int N>
constexpr ByteTable byte_mask_table() {
  constexpr auto kKept = kept_mask_table(BlockShape<N>::kPattern);
  ByteTable table;
  for (std::size_t i = 0; i < 64; ++i) {
    table.bytes[i] = static_cast<std::uint8_t>(N == 2 ? kKept[i & 7] | kKept[i >> 3] << 4 : kKept[i & 31]);
  }
  return table;
}

template <int N>
constexpr WideByteTable wide_mask_table(int byte) {
  constexpr auto kKept = kept_mask_table(BlockShape<N>::kPattern);
  WideByteTable table;
  for (std::size_t i = 0; i < 128; ++i) table.bytes[i] = static_cast<std::uint8_t>(kKept[i] >> (8 * byte));
  return table;
}

// 4:6 has ten groups of 4 code bits a block: eight of them in the low qword of a 16-byte lane, two in the
// high one. Blocks 0, 2, 4 and 6, or those after them.
constexpr ByteTable spread_46_table(std::size_t first_block) {
  ByteTable table;
  for (std::size_t lane = 0; lane < 4; ++lane) {
    for (std::size_t j = 0; j < 8; ++j) {
      const std::size_t byte = (first_block + 2 * lane) * 5;
      table.bytes[16 * lane + j] = static_cast<std::uint8_t>((byte + j) & 63);
      table.bytes[16 * lane + 8 + j] = static_cast<std::uint8_t>((byte + 4 + j) & 63);
    }
  }
  return table;
}
constexpr ByteTable shift_46_table() {
  ByteTable table;
  for (std::size_t i = 0; i < 64; ++i) table.bytes[i] = static_cast<std::uint8_t>(i % 8 * 4);
  return table;
}
constexpr ByteTable mask_46_table() {
  constexpr auto kKept = kept_mask_table(BlockShape<3>::kPattern);
  ByteTable table;
  for (std::size_t i = 0; i < 64; ++i) table.bytes[i] = static_cast<std::uint8_t>(kKept[i % 16]);
  return table;
}

// Joins the two dwords of each qword, which hold `bits` bits each.
template <int bits>
inline __m512i join_dwords(__m512i x) {
  const __m512i high = _mm512_slli_epi64(_mm512_srli_epi64(x, 32), bits);
  constexpr int kAAndBOrC = 0xea;
  return _mm512_ternarylogic_epi64(x, _mm512_set1_epi64(0xffffffff), high, kAAndBOrC);
}

// Masks of even and odd blocks, one block a 16-byte lane with `bits` bits in its low qword and the rest in
// the high one, as eight masks in order.
template <int bits>
inline __m512i join_blocks(__m512i even, __m512i odd) {
  const __m512i low = _mm512_unpacklo_epi64(even, odd);
  if constexpr (bits >= 56) return low;
  return _mm512_or_si512(low, _mm512_slli_epi64(_mm512_unpackhi_epi64(even, odd), bits));
}

// Masks of 6 bits in bytes 0 .. 9 of each lane, side by side.
inline __m512i join_46(__m512i masks) {
  const __m512i pairs = _mm512_maddubs_epi16(masks, _mm512_set1_epi16(64 << 8 | 1));
  return join_dwords<24>(_mm512_madd_epi16(pairs, _mm512_set1_epi32(4096 << 16 | 1)));
}

// Masks of 2N bits in the words of each lane, side by side.
template <int N>
inline __m512i join_words(__m512i masks) {
  if constexpr (N == 8) return masks;
  return join_dwords<4 * N>(_mm512_madd_epi16(masks, _mm512_set1_epi32((1 << 2 * N) << 16 | 1)));
}

// Kept lanes of eight blocks, bit = slot, from their codes (`bytes` of them are there; codes behind are read
// as 0).
template <int N>
inline void decode_masks(const std::uint8_t* codes, std::int64_t bytes, std::uint64_t* masks) {
  using Shape = BlockShape<N>;
  const __m512i packed = _mm512_maskz_loadu_epi8(
      first_lanes(bytes < Shape::kOctCodeBytes ? bytes : Shape::kOctCodeBytes), codes);
  if constexpr (N == 2 || N == 4) {
    static constexpr ByteTable kSpread = spread_table<N>();
    static constexpr ByteTable kShift = shift_table<N>(N == 2 ? 6 : 5);
    static constexpr ByteTable kMasks = byte_mask_table<N>();
    const __m512i fields = _mm512_multishift_epi64_epi8(load_table(kShift),
                                                        _mm512_permutexvar_epi8(load_table(kSpread), packed));
    _mm512_storeu_si512(masks, _mm512_permutexvar_epi8(fields, load_table(kMasks)));
  } else if constexpr (N == 3) {
    static constexpr ByteTable kEven = spread_46_table(0);
    static constexpr ByteTable kOdd = spread_46_table(1);
    static constexpr ByteTable kShift = shift_46_table();
    static constexpr ByteTable kMasks = mask_46_table();
    constexpr __mmask64 kTenFields = 0x03ff03ff03ff03ffull;
    const auto lookup = [&](const ByteTable& spread) {
      const __m512i fields = _mm512_multishift_epi64_epi8(
          load_table(kShift), _mm512_permutexvar_epi8(load_table(spread), packed));
      return join_46(_mm512_maskz_shuffle_epi8(kTenFields, load_table(kMasks),
                                               _mm512_and_si512(fields, _mm512_set1_epi8(15))));
    };
    _mm512_storeu_si512(masks, join_blocks<48>(lookup(kEven), lookup(kOdd)));
  } else {
    static constexpr ByteTable kSpread = spread_table<N>();
    static constexpr ByteTable kShift = shift_table<N>(Shape::kBits);
    static constexpr WideByteTable kLow = wide_mask_table<N>(0);
    static constexpr WideByteTable kHigh = wide_mask_table<N>(1);
    constexpr __mmask64 kFields = 0x0101010101010101ull * ((1u << Shape::kGroups) - 1);
    const __m512i fields =
        _mm512_and_si512(_mm512_multishift_epi64_epi8(load_table(kShift),
                                                      _mm512_permutexvar_epi8(load_table(kSpread), packed)),
                         _mm512_set1_epi8((1 << Shape::kBits) - 1));
    const auto lookup = [&](const WideByteTable& table) {
      return _mm512_maskz_permutex2var_epi8(kFields, _mm512_load_si512(table.bytes.data()), fields,
                                            _mm512_load_si512(table.bytes.data() + 64));
    };
    const __m512i low = lookup(kLow);
    const __m512i high = lookup(kHigh);
    // One 16-bit mask a group: even blocks in one register and odd ones in the other.
    _mm512_storeu_si512(masks, join_blocks<8 * N>(join_words<N>(_mm512_unpacklo_epi8(low, high)),
                                                  join_words<N>(_mm512_unpackhi_epi8(low, high))));
  }
}

// Four registers of 16 partial sums to four sums, always added in the same order.
inline __m128i reduce4(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i abcd = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(abcd), _mm512_extracti64x4_epi64(abcd, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}
inline __m128 reduce4(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512d ab2 = _mm512_castps_pd(ab);
  const __m512d cd2 = _mm512_castps_pd(cd);
  const __m512 abcd = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab2, cd2)),
                                    _mm512_castpd_ps(_mm512_unpackhi_pd(ab2, cd2)));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

inline __m128i add(__m128i a, __m128i b) {
  return _mm_add_epi32(a, b);
}
inline __m128 add(__m128 a, __m128 b) {
  return _mm_add_ps(a, b);
}
inline void load(__m128i& to, const std::int32_t* from, __mmask8 lanes) {
  to = _mm_maskz_loadu_epi32(lanes, from);
}
inline void load(__m128& to, const float* from, __mmask8 lanes) {
  to = _mm_maskz_loadu_ps(lanes, from);
}
inline void store(std::int32_t* to, __m128i x, __mmask8 lanes) {
  _mm_mask_storeu_epi32(to, lanes, x);
}
inline void store(float* to, __m128 x, __mmask8 lanes) {
  _mm_mask_storeu_ps(to, lanes, x);
}

// Adds the sums of four rows and T tokens to `sums`; `rows` of the four are real.
template <typename D, int T>
inline void store_sums(const typename D::Sums (&acc)[kTileRows][T], std::int64_t rows, std::int64_t tokens,
                       bool first, typename D::Sum* sums, std::int64_t ld) {
  const auto lanes = static_cast<__mmask8>((1u << rows) - 1u);
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    auto sum = reduce4(acc[0][t], acc[1][t], acc[2][t], acc[3][t]);
    if (!first && t < tokens) {
      decltype(sum) before;
      load(before, sums + t * ld, lanes);
      sum = add(before, sum);
    }
    if (t < tokens) store(sums + t * ld, sum, lanes);
  }
}

// Arrays of registers stay registers only if every loop over them is unrolled.
template <typename D, int T>
inline void clear(typename D::Sums (&acc)[kTileRows][T]) {
#pragma GCC unroll 4
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) acc[r][t] = D::zero();
  }
}

template <typename D, int T>
inline void tile_rows(const typename D::Panel* const (&w)[kTileRows], const typename D::Panel* x,
                      std::int64_t x_stride, std::int64_t blocks, typename D::Sums (&acc)[kTileRows][T]) {
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t at = block * kBlockSlots;
    const auto w0 = D::load_panel(w[0] + at);
    const auto w1 = D::load_panel(w[1] + at);
    const auto w2 = D::load_panel(w[2] + at);
    const auto w3 = D::load_panel(w[3] + at);
#pragma GCC unroll 6
    for (int t = 0; t < T; ++t) {
      const auto token = D::load_panel(x + t * x_stride + at);
      acc[0][t] = D::dot(acc[0][t], w0, token);
      acc[1][t] = D::dot(acc[1][t], w1, token);
      acc[2][t] = D::dot(acc[2][t], w2, token);
      acc[3][t] = D::dot(acc[3][t], w3, token);
    }
  }
}

// Asks for the tokens after these, a slice with each quad of rows: they come from a cache further away, in
// pieces too short for the hardware to guess.
inline void prefetch_tokens(const std::uint8_t* next, std::int64_t stride, std::int64_t tokens,
                            std::int64_t lines, std::int64_t quad, std::int64_t quads) {
  const std::int64_t end = lines * (quad + 1) / quads;
  for (std::int64_t line = lines * quad / quads; line < end; ++line) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      _mm_prefetch(reinterpret_cast<const char*>(next + t * stride + line * 64), _MM_HINT_T1);
    }
  }
}

template <typename D, int T>
void tile_tokens(const typename D::Panel* panel, std::int64_t panel_stride, std::int64_t rows,
                 const typename D::Panel* x, std::int64_t x_stride, std::int64_t blocks, bool first,
                 typename D::Sum* sums, std::int64_t ld) {
  constexpr std::int64_t kElement = sizeof(typename D::Panel);
  for (std::int64_t row = 0; row < rows; row += kTileRows) {
    const std::int64_t here = rows - row < kTileRows ? rows - row : kTileRows;
    const typename D::Panel* w[kTileRows];
    for (std::int64_t r = 0; r < kTileRows; ++r)
      w[r] = panel + (row + (r < here ? r : here - 1)) * panel_stride;
    typename D::Sums acc[kTileRows][T];
    clear<D, T>(acc);
    prefetch_tokens(reinterpret_cast<const std::uint8_t*>(x + T * x_stride), x_stride * kElement, T,
                    blocks * kElement, row / kTileRows, (rows + kTileRows - 1) / kTileRows);
    tile_rows<D, T>(w, x, x_stride, blocks, acc);
    store_sums<D, T>(acc, here, T, first, sums + row, ld);
  }
}

template <typename D>
void tile(const void* panel, std::int64_t panel_stride, std::int64_t rows, const void* x,
          std::int64_t x_stride, std::int64_t tokens, std::int64_t blocks, bool first, void* sums,
          std::int64_t ld) {
  const auto go = [&]<int T>() {
    tile_tokens<D, T>(static_cast<const typename D::Panel*>(panel), panel_stride, rows,
                      static_cast<const typename D::Panel*>(x), x_stride, blocks, first,
                      static_cast<typename D::Sum*>(sums), ld);
  };
  switch (tokens) {
    case 1:
      go.template operator()<1>();
      break;
    case 2:
      go.template operator()<2>();
      break;
    case 3:
      go.template operator()<3>();
      break;
    case 4:
      go.template operator()<4>();
      break;
    case 5:
      go.template operator()<5>();
      break;
    default:
      go.template operator()<6>();
      break;
  }
}

// How far ahead memory is asked: far enough that it answers in time, near enough that the first-level cache
// holds what came. Prefetching behind the matrix does no harm.
inline constexpr std::int64_t kPrefetchSameRow = 3072;
inline constexpr std::int64_t kPrefetchNextRows = 8192;

// The same place some rows on: what loops that take pieces of several rows in turn will want.
inline std::int64_t rows_ahead(const GemmRows& rows) {
  return kTileRows * (1 + kPrefetchNextRows / (rows.value_stride * kTileRows + 1));
}

inline void prefetch(const std::uint8_t* from) {
  _mm_prefetch(reinterpret_cast<const char*>(from), _MM_HINT_T0);
}

// Stored rows that a stream takes at a time. Memory likes one best, read from front to back: four at once get
// a quarter less where another machine shares the core (docs/measurements.md). Four share what is read of
// many tokens, though, and their sums do not wait for one another, as those of one row do when each is a
// chain of floating-point additions in a fixed order.
template <typename D, int N, int T>
constexpr int stream_rows() {
  constexpr bool kInteger = std::is_integral_v<typename D::Sum>;
  return (kInteger && T <= 2) || (N == 0 && T == 1) ? 1 : static_cast<int>(kTileRows);
}

// Where a stream stands: R stored rows, those behind the last are the last again.
template <int R>
struct StreamRows {
  const std::uint8_t* values[R];
  const std::uint8_t* codes[R];
  // From a block to what memory should fetch meanwhile. Several long rows are fetched ahead within the row,
  // and near its end from the start of the row that follows in its place.
  std::int64_t values_ahead = kPrefetchSameRow;
  std::int64_t codes_ahead = kPrefetchSameRow / 4;
  std::int64_t wrap_at = std::int64_t{1} << 62;
  std::int64_t values_wrapped = 0;

  StreamRows(const GemmRows& rows, std::int64_t first, std::int64_t count) {
    for (std::int64_t r = 0; r < R; ++r) {
      const std::int64_t at = first + (r < count ? r : count - 1);
      values[r] = rows.values + at * rows.value_stride;
      codes[r] = rows.codes + at * rows.code_stride;
    }
    if constexpr (R > 1) {
      const bool long_rows = rows.value_stride > kPrefetchSameRow;
      constexpr std::int64_t kInLongRow = 2048;
      values_ahead = long_rows ? kInLongRow : rows_ahead(rows) * rows.value_stride;
      values_wrapped = values_ahead + (long_rows ? (R - 1) * rows.value_stride : 0);
      wrap_at = rows.value_stride - kInLongRow;
      codes_ahead = rows_ahead(rows) * rows.code_stride;
    }
  }

  std::int64_t ahead(std::int64_t offset) const {
    if constexpr (R == 1) return values_ahead;
    return offset < wrap_at ? values_ahead : values_wrapped;
  }
};

// T tokens' sums of R rows. Integers need no fixed order, so that those of a single row are kept as two,
// which do not wait for one another.
template <typename D, int R, int T>
struct StreamSums {
  static constexpr int kChains = std::is_integral_v<typename D::Sum> && R == 1 ? 2 : 1;
  typename D::Sums acc[kChains][R][T];

  StreamSums() {
#pragma GCC unroll 2
    for (auto& chain : acc) {
#pragma GCC unroll 4
      for (auto& row : chain) {
#pragma GCC unroll 8
        for (auto& sums : row) sums = D::zero();
      }
    }
  }

  template <typename W>
  void multiply(int chain, int r, const W& w, const typename D::Panel* const (&x)[T], std::int64_t block) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      auto& sum = acc[chain % kChains][r][t];
      sum = D::dot(sum, w, D::load_panel(x[t] + block * kBlockSlots));
    }
  }

  // One row is added up in the order of four, so that streams and tiles agree bit for bit.
  void store(std::int64_t rows, std::int64_t tokens, bool first, typename D::Sum* sums, std::int64_t ld) {
    if constexpr (R == kTileRows) {
      store_sums<D, T>(acc[0], rows, tokens, first, sums, ld);
    } else {
      typename D::Sums same[kTileRows][T];
#pragma GCC unroll 4
      for (auto& row : same) {
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
          row[t] = acc[0][0][t];
          if constexpr (kChains == 2) row[t] = _mm512_add_epi32(row[t], acc[1][0][t]);
        }
      }
      store_sums<D, T>(same, 1, tokens, first, sums, ld);
    }
  }
};

// Adds blocks [begin, end) of R stored rows times T tokens. N = 0: no packed part.
template <typename D, int N, int R, int T>
inline void stream_blocks(const GemmRows& rows, const StreamRows<R>& cursor, std::int64_t begin,
                          std::int64_t end, const typename D::Panel* const (&x)[T],
                          StreamSums<D, R, T>& sums) {
  std::int64_t block = begin;
  if constexpr (N != 0) {
    using Shape = BlockShape<N>;
    const std::int64_t packed_end = end < rows.packed_blocks ? end : rows.packed_blocks;
    const std::int64_t full = rows.packed_values / Shape::kKept;  // blocks before the one that is part empty
    while (block < packed_end) {
      alignas(64) std::uint64_t masks[R][8];
      const std::int64_t code = block / 8 * Shape::kOctCodeBytes;
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        prefetch(cursor.codes[r] + code + cursor.codes_ahead);
        decode_masks<N>(cursor.codes[r] + code, rows.code_stride - code, masks[r]);
      }
      const std::int64_t stop = block + 8 < packed_end ? block + 8 : packed_end;
      const auto multiply = [&](std::int64_t b, int i, std::int64_t available)
          __attribute__((always_inline)) {
        const std::int64_t at = b * Shape::kKept * D::kBytes;
        const std::int64_t ahead = cursor.ahead(at);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const std::uint8_t* from = cursor.values[r] + at;
          prefetch(from + ahead);
          if constexpr (Shape::kKept * D::kBytes > 64) prefetch(from + ahead + 64);
          sums.multiply(i, r, D::load_packed(from, masks[r][i], available), x, b);
        }
      };
      if (stop - block == 8 && stop <= full) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) multiply(block + i, i, Shape::kKept);
      } else {
        for (std::int64_t b = block; b < stop; ++b) {
          const std::int64_t left = rows.packed_values - b * Shape::kKept;
          multiply(b, static_cast<int>(b - block), left < Shape::kKept ? left : Shape::kKept);
        }
      }
      block = stop;
    }
  }
  const auto multiply = [&](std::int64_t b, int i, std::int64_t available) __attribute__((always_inline)) {
    const std::int64_t at = (rows.packed_values + (b - rows.packed_blocks) * kBlockSlots) * D::kBytes;
    const std::int64_t ahead = cursor.ahead(at);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const std::uint8_t* from = cursor.values[r] + at;
      prefetch(from + ahead);
      if constexpr (D::kBytes == 2) prefetch(from + ahead + 64);
      sums.multiply(i, r, D::load_dense(from, available), x, b);
    }
  };
  const std::int64_t full = rows.packed_blocks + rows.dense_lanes / kBlockSlots;
  const std::int64_t full_end = end < full ? end : full;
  for (; block + 4 <= full_end; block += 4) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) multiply(block + i, i, kBlockSlots);
  }
  for (; block < end; ++block) {
    multiply(block, 0, rows.dense_lanes - (block - rows.packed_blocks) * kBlockSlots);
  }
}

template <typename D, int N, int T>
void stream_tokens(const GemmRows& rows, std::int64_t row, std::int64_t count, const typename D::Panel* x,
                   std::int64_t x_stride, std::int64_t tokens, typename D::Sum* sums, std::int64_t ld) {
  constexpr int kRows = stream_rows<D, N, T>();
  const typename D::Panel* token[T];
  for (std::int64_t t = 0; t < T; ++t) token[t] = x + (t < tokens ? t : tokens - 1) * x_stride;
  for (std::int64_t first = 0; first < count; first += kRows) {
    const std::int64_t here = count - first < kRows ? count - first : kRows;
    const StreamRows<kRows> cursor(rows, row + first, here);
    for (std::int64_t block = 0; block < rows.blocks(); block += D::kChunk) {
      const std::int64_t end = rows.blocks() - block < D::kChunk ? rows.blocks() : block + D::kChunk;
      StreamSums<D, kRows, T> stream_sums;
      stream_blocks<D, N, kRows, T>(rows, cursor, block, end, token, stream_sums);
      stream_sums.store(here, tokens, block == 0, sums + first, ld);
    }
  }
}

// As many products as there are accumulators in a tile, `rounds` times. The empty assembly keeps the compiler
// from seeing that nothing changes.
template <typename D>
std::int64_t peak(std::int64_t rounds) {
  constexpr int kAccumulators = 24;
  alignas(64) typename D::Panel block[kBlockSlots] = {};
  auto w = D::load_panel(block);
  auto x = D::load_panel(block);
  typename D::Sums acc[kAccumulators];
#pragma GCC unroll 24
  for (int i = 0; i < kAccumulators; ++i) acc[i] = D::zero();
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 24
    for (int i = 0; i < kAccumulators; ++i) acc[i] = D::dot(acc[i], w, x);
    D::opaque(w);
  }
  auto sum = reduce4(acc[0], acc[1], acc[2], acc[3]);
  for (int i = 4; i < kAccumulators; i += 4)
    sum = add(sum, reduce4(acc[i], acc[i + 1], acc[i + 2], acc[i + 3]));
  D::opaque_sum(sum);
  return rounds * kAccumulators * kBlockSlots * 2;
}

template <typename Function>
inline void with_half_group(int n, const Function& function) {
  switch (n) {
    case 2:
      function.template operator()<2>();
      break;
    case 3:
      function.template operator()<3>();
      break;
    case 4:
      function.template operator()<4>();
      break;
    case 5:
      function.template operator()<5>();
      break;
    case 6:
      function.template operator()<6>();
      break;
    case 7:
      function.template operator()<7>();
      break;
    case 8:
      function.template operator()<8>();
      break;
    default:
      function.template operator()<0>();
      break;
  }
}

template <typename D>
void stream(const GemmRows& rows, std::int64_t row, std::int64_t count, const void* x, std::int64_t x_stride,
            std::int64_t tokens, void* sums, std::int64_t ld) {
  with_half_group(rows.half_group, [&]<int N>() {
    const auto* token = static_cast<const typename D::Panel*>(x);
    auto* out = static_cast<typename D::Sum*>(sums);
    if (tokens == 1) {
      stream_tokens<D, N, 1>(rows, row, count, token, x_stride, tokens, out, ld);
    } else if (tokens == 2) {
      stream_tokens<D, N, 2>(rows, row, count, token, x_stride, tokens, out, ld);
    } else if (tokens <= 4) {
      stream_tokens<D, N, 4>(rows, row, count, token, x_stride, tokens, out, ld);
    } else {
      stream_tokens<D, N, 6>(rows, row, count, token, x_stride, tokens, out, ld);
    }
  });
}

template <typename D, int N>
void expand_row(const GemmRows& rows, std::int64_t row, std::int64_t first, std::int64_t count,
                typename D::Panel* panel) {
  const std::uint8_t* values = rows.values + row * rows.value_stride;
  const std::int64_t ahead = rows_ahead(rows) * rows.value_stride;
  const std::int64_t end = first + count;
  std::int64_t block = first;
  if constexpr (N != 0) {
    using Shape = BlockShape<N>;
    const std::uint8_t* codes = rows.codes + row * rows.code_stride;
    const std::int64_t packed_end = end < rows.packed_blocks ? end : rows.packed_blocks;
    const std::int64_t full = rows.packed_values / Shape::kKept;  // blocks before the one that is part empty
    while (block < packed_end) {
      alignas(64) std::uint64_t masks[8];
      const std::int64_t code = block / 8 * Shape::kOctCodeBytes;
      prefetch(codes + code + rows_ahead(rows) * rows.code_stride);
      decode_masks<N>(codes + code, rows.code_stride - code, masks);
      const auto put = [&](std::int64_t b, std::int64_t available) __attribute__((always_inline)) {
        const std::uint8_t* from = values + b * Shape::kKept * D::kBytes;
        prefetch(from + ahead);
        if constexpr (Shape::kKept * D::kBytes > 64) prefetch(from + ahead + 64);
        D::store_panel(panel + (b - first) * kBlockSlots, D::load_packed(from, masks[b % 8], available));
      };
      const std::int64_t stop = block / 8 * 8 + 8 < packed_end ? block / 8 * 8 + 8 : packed_end;
      if (stop - block == 8 && stop <= full) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) put(block + i, Shape::kKept);
        block = stop;
      }
      for (; block < stop; ++block) {
        const std::int64_t left = rows.packed_values - block * Shape::kKept;
        put(block, left < Shape::kKept ? left : Shape::kKept);
      }
    }
  }
  for (; block < end; ++block) {
    const std::int64_t lane = (block - rows.packed_blocks) * kBlockSlots;
    const std::uint8_t* from = values + (rows.packed_values + lane) * D::kBytes;
    prefetch(from + ahead);
    if constexpr (D::kBytes == 2) prefetch(from + ahead + 64);
    D::store_panel(panel + (block - first) * kBlockSlots, D::load_dense(from, rows.dense_lanes - lane));
  }
}

template <typename D>
void expand(const GemmRows& rows, std::int64_t row, std::int64_t first, std::int64_t count, void* panel) {
  with_half_group(rows.half_group, [&]<int N>() {
    expand_row<D, N>(rows, row, first, count, static_cast<typename D::Panel*>(panel));
  });
}

}  // namespace slidesparse::avx512
