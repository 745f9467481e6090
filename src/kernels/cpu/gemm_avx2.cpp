#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/numeric.h"
#include "kernels/cpu/gemm_kernels.h"
#include "slidesparse/format/codes.h"

namespace slidesparse {
namespace {

// For each code, where the 16 lanes of a group find their values: byte shuffles, 0x80 for a lane that gets
// zero.
struct Shuffles {
  alignas(16) std::array<std::array<std::uint8_t, 16>, 128> bytes{};
};

constexpr std::uint8_t kZeroLane = 0x80;

// Lanes [first_lane, first_lane + 16 / size) of a group from the values behind `first_value`, elements of
// `size` bytes.
constexpr Shuffles make_shuffles(Pattern pattern, int size, int first_lane, int first_value) {
  Shuffles table;
  for (int code = 0; code < 128; ++code) {
    auto& shuffle = table.bytes[static_cast<std::size_t>(code)];
    for (auto& byte : shuffle) byte = kZeroLane;
    if (code >= code_count(pattern)) continue;
    const DroppedPair dropped = decode_pair(code);
    int value = 0;
    for (int lane = 0; lane < pattern.group(); ++lane) {
      if (lane == dropped.a || lane == dropped.b) continue;
      const int at = (lane - first_lane) * size;
      if (at >= 0 && at < 16) {
        for (int byte = 0; byte < size; ++byte) {
          shuffle[static_cast<std::size_t>(at) + static_cast<std::size_t>(byte)] =
              static_cast<std::uint8_t>((value - first_value) * size + byte);
        }
      }
      ++value;
    }
  }
  return table;
}

// Lane 8 of a group never takes a value before this one, and lane 15 none behind seven more.
constexpr int kUpperValues = 6;

__m128i load_shuffle(const Shuffles& table, int code) {
  return _mm_load_si128(reinterpret_cast<const __m128i*>(table.bytes[static_cast<std::size_t>(code)].data()));
}

// 16 bytes of which only `available` may be read.
__m128i load_values(const std::uint8_t* from, std::int64_t available) {
  if (available >= 16) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  std::uint8_t copy[16] = {};
  if (available > 0) std::memcpy(copy, from, static_cast<std::size_t>(available));
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(copy));
}

// Shuffles of 8 lanes of bytes, by the codes of the groups that they are: one of 6:8, two of 2:4.
constexpr std::array<std::uint64_t, 64> make_half_shuffles(Pattern pattern, int first_value) {
  std::array<std::uint64_t, 64> table{};
  for (std::size_t codes = 0; codes < table.size(); ++codes) {
    int value = first_value;
    for (int first = 0; first < 8; first += pattern.group()) {
      const int shift = first / pattern.group() * pattern.code_bits();
      const int code = static_cast<int>(codes >> shift) & ((1 << pattern.code_bits()) - 1);
      const bool known = code < code_count(pattern);
      const DroppedPair dropped = known ? decode_pair(code) : DroppedPair{0, 0};
      for (int lane = 0; lane < pattern.group(); ++lane) {
        const bool kept = known && lane != dropped.a && lane != dropped.b;
        table[codes] |= static_cast<std::uint64_t>(kept ? value++ : kZeroLane) << (8 * (first + lane));
      }
      if (!known) value += pattern.kept();
    }
  }
  return table;
}

// One packed block of bytes whose groups make up 8 lanes: 16 lanes at a time, because decoding a token is
// bound by this. `out` has room for the block.
template <int N>
void expand_packed_bytes(const GemmRows& rows, const std::uint8_t* values, const std::uint8_t* codes,
                         std::int64_t block, std::uint8_t* out) {
  constexpr Pattern kPattern = Pattern::of_half_group(N);
  constexpr int kHalfBits = 8 / kPattern.group() * kPattern.code_bits();
  constexpr int kHalfValues = 8 / kPattern.group() * kPattern.kept();
  constexpr std::uint64_t kMask = (std::uint64_t{1} << kHalfBits) - 1;
  static constexpr auto kLower = make_half_shuffles(kPattern, 0);
  static constexpr auto kUpper = make_half_shuffles(kPattern, kHalfValues);
  // The codes of a block, eight halves, begin on a byte: kHalfBits of them.
  const std::int64_t at = block * kHalfBits;
  std::uint64_t bits = 0;
  std::memcpy(&bits, codes + at, static_cast<std::size_t>(std::min<std::int64_t>(8, rows.code_stride - at)));
  for (int i = 0; i < kBlockSlots / 16; ++i) {
    const std::int64_t value = (block * 8 + 2 * i) * kHalfValues;
    if (value >= rows.packed_values) break;
    const std::uint64_t lower = kLower[bits & kMask], upper = kUpper[bits >> kHalfBits & kMask];
    bits >>= 2 * kHalfBits;
    const __m128i shuffle =
        _mm_set_epi64x(static_cast<std::int64_t>(upper), static_cast<std::int64_t>(lower));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out) + i,
                     _mm_shuffle_epi8(load_values(values + value, rows.packed_values - value), shuffle));
  }
}

// One packed block of elements of `Size` bytes: out has room for 16 elements more than a block.
template <int N, int Size>
void expand_packed_block(const GemmRows& rows, const std::uint8_t* values, const std::uint8_t* codes,
                         std::int64_t block, std::uint8_t* out) {
  constexpr Pattern kPattern = Pattern::of_half_group(N);
  if constexpr (Size == 1 && 8 % kPattern.group() == 0) {
    expand_packed_bytes<N>(rows, values, codes, block, out);
    return;
  }
  static constexpr Shuffles kLower = make_shuffles(kPattern, Size, 0, 0);
  static constexpr Shuffles kUpper = make_shuffles(kPattern, Size, 8, kUpperValues);
  const std::int64_t groups = rows.packed_values / kPattern.kept();
  const std::int64_t first = block * block_groups(N);
  for (std::int64_t i = 0; i < block_groups(N) && first + i < groups; ++i) {
    const int code = read_code(codes, kPattern.code_bits(), first + i);
    const std::int64_t value = (first + i) * kPattern.kept();
    const std::uint8_t* from = values + value * Size;
    const std::int64_t available = (rows.packed_values - value) * Size;
    auto* to = reinterpret_cast<__m128i*>(out + i * kPattern.group() * Size);
    _mm_storeu_si128(to, _mm_shuffle_epi8(load_values(from, available), load_shuffle(kLower, code)));
    if constexpr (Size == 2 && N > 4) {
      constexpr int kSkip = kUpperValues * Size;
      _mm_storeu_si128(
          to + 1, _mm_shuffle_epi8(load_values(from + kSkip, available - kSkip), load_shuffle(kUpper, code)));
    }
  }
}

template <int Size>
void expand_block(const GemmRows& rows, std::int64_t row, std::int64_t block, std::uint8_t* out) {
  std::uint8_t slots[(kBlockSlots + 16) * Size] = {};
  const std::uint8_t* values = rows.values + row * rows.value_stride;
  if (block < rows.packed_blocks) {
    const std::uint8_t* codes = rows.codes + row * rows.code_stride;
    switch (rows.half_group) {
      case 2:
        expand_packed_block<2, Size>(rows, values, codes, block, slots);
        break;
      case 3:
        expand_packed_block<3, Size>(rows, values, codes, block, slots);
        break;
      case 4:
        expand_packed_block<4, Size>(rows, values, codes, block, slots);
        break;
      case 5:
        expand_packed_block<5, Size>(rows, values, codes, block, slots);
        break;
      case 6:
        expand_packed_block<6, Size>(rows, values, codes, block, slots);
        break;
      case 7:
        expand_packed_block<7, Size>(rows, values, codes, block, slots);
        break;
      default:
        expand_packed_block<8, Size>(rows, values, codes, block, slots);
        break;
    }
  } else {
    const std::int64_t lane = (block - rows.packed_blocks) * kBlockSlots;
    const std::int64_t lanes = rows.dense_lanes - lane < kBlockSlots ? rows.dense_lanes - lane : kBlockSlots;
    std::memcpy(slots, values + (rows.packed_values + lane) * Size, static_cast<std::size_t>(lanes * Size));
  }
  std::memcpy(out, slots, static_cast<std::size_t>(kBlockSlots * Size));
}

template <int Size>
void expand(const GemmRows& rows, std::int64_t row, std::int64_t first, std::int64_t count, void* panel) {
  auto* out = static_cast<std::uint8_t*>(panel);
  for (std::int64_t i = 0; i < count; ++i)
    expand_block<Size>(rows, row, first + i, out + i * kBlockSlots * Size);
}

// Every E4M3 value as BF16, exact.
const std::uint16_t* widening_table() {
  static const auto kTable = [] {
    std::array<std::uint16_t, 256> table{};
    for (unsigned i = 0; i < 256; ++i) table[i] = float_to_bf16(e4m3_to_float(static_cast<std::uint8_t>(i)));
    return table;
  }();
  return kTable.data();
}

void widen(const std::uint8_t* x, std::int64_t blocks, std::uint16_t* out) {
  const std::uint16_t* table = widening_table();
  for (std::int64_t i = 0; i < blocks * kBlockSlots; ++i) out[i] = table[x[i]];
}

void expand_f8(const GemmRows& rows, std::int64_t row, std::int64_t first, std::int64_t count, void* panel) {
  std::uint8_t bytes[kBlockSlots];
  auto* out = static_cast<std::uint16_t*>(panel);
  for (std::int64_t i = 0; i < count; ++i) {
    expand_block<1>(rows, row, first + i, bytes);
    widen(bytes, 1, out + i * kBlockSlots);
  }
}

// vpmaddubsw would saturate, so bytes become 16-bit integers first: exact sums.
struct Int8 {
  using Panel = std::int8_t;
  using Sum = std::int32_t;
  using Sums = __m256i;

  static Sums zero() { return _mm256_setzero_si256(); }
  static __m256i load(const Panel* from) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static Sums dot(Sums acc, __m256i w, __m256i x) { return _mm256_add_epi32(acc, _mm256_madd_epi16(w, x)); }
  static void opaque(__m256i& w) { asm volatile("" : "+x"(w)); }
  static Sum reduce(Sums acc) {
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(acc), _mm256_extracti128_si256(acc, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
  }
};

// 16 BF16 values as FP32: those in even slots and those in odd slots.
struct Pair {
  __m256 even;
  __m256 odd;
};

struct Bf16 {
  using Panel = std::uint16_t;
  using Sum = float;
  using Sums = __m256;

  static Sums zero() { return _mm256_setzero_ps(); }
  static Pair load(const Panel* from) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(both, 16)),
            _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
  }
  static Sums dot(Sums acc, Pair w, Pair x) {
    return _mm256_fmadd_ps(w.odd, x.odd, _mm256_fmadd_ps(w.even, x.even, acc));
  }
  static void opaque(Pair& w) { asm volatile("" : "+x"(w.even), "+x"(w.odd)); }
  static Sum reduce(Sums acc) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps(acc, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
};

// R rows times T tokens over `slots` slots.
template <typename D, int R, int T>
void multiply(const typename D::Panel* w, std::int64_t w_stride, const typename D::Panel* x,
              std::int64_t x_stride, std::int64_t slots, bool first, typename D::Sum* sums, std::int64_t ld) {
  typename D::Sums acc[R][T];
  for (auto& of_row : acc) {
    for (auto& value : of_row) value = D::zero();
  }
  for (std::int64_t i = 0; i < slots; i += 16) {
    decltype(D::load(x)) token[T];
    for (int t = 0; t < T; ++t) token[t] = D::load(x + t * x_stride + i);
    for (int r = 0; r < R; ++r) {
      const auto row = D::load(w + r * w_stride + i);
      for (int t = 0; t < T; ++t) acc[r][t] = D::dot(acc[r][t], row, token[t]);
    }
  }
  for (int t = 0; t < T; ++t) {
    for (int r = 0; r < R; ++r) {
      auto& out = sums[t * ld + r];
      out = first ? D::reduce(acc[r][t]) : out + D::reduce(acc[r][t]);
    }
  }
}

// Eight accumulators' products, `rounds` times, operands in registers.
template <typename D>
std::int64_t peak(std::int64_t rounds) {
  constexpr int kAccumulators = 8;
  alignas(32) typename D::Panel block[16] = {};
  auto w = D::load(block);
  typename D::Sums acc[kAccumulators];
  for (auto& value : acc) value = D::zero();
  for (std::int64_t i = 0; i < rounds; ++i) {
    for (auto& value : acc) value = D::dot(value, w, w);
    D::opaque(w);
  }
  typename D::Sum sum = 0;
  for (const auto& value : acc) sum += D::reduce(value);
  asm volatile("" : "+m"(sum));
  return rounds * kAccumulators * 16 * 2;
}

template <typename D>
void tile(const void* panel, std::int64_t panel_stride, std::int64_t rows, const void* x,
          std::int64_t x_stride, std::int64_t tokens, std::int64_t blocks, bool first, void* sums,
          std::int64_t ld) {
  const auto* w = static_cast<const typename D::Panel*>(panel);
  const auto* token = static_cast<const typename D::Panel*>(x);
  auto* out = static_cast<typename D::Sum*>(sums);
  const std::int64_t slots = blocks * kBlockSlots;
  for (std::int64_t r = 0; r < rows;) {
    const bool four = rows - r >= kTileRows;
    for (std::int64_t t = 0; t < tokens;) {
      const bool two = tokens - t >= 2;
      const auto run = four ? (two ? multiply<D, 4, 2> : multiply<D, 4, 1>)
                            : (two ? multiply<D, 1, 2> : multiply<D, 1, 1>);
      run(w + r * panel_stride, panel_stride, token + t * x_stride, x_stride, slots, first, out + t * ld + r,
          ld);
      t += two ? 2 : 1;
    }
    r += four ? kTileRows : 1;
  }
}

}  // namespace

const GemmKernels& avx2_gemm_kernels(DType dtype) {
  static const GemmKernels kI8{Isa::kAvx2, 0, expand<1>, nullptr, tile<Int8>, nullptr, peak<Int8>};
  static const GemmKernels kF8{Isa::kAvx2, 0, expand_f8, widen, tile<Bf16>, nullptr, peak<Bf16>};
  static const GemmKernels kBf16{Isa::kAvx2, 0, expand<2>, nullptr, tile<Bf16>, nullptr, peak<Bf16>};
  if (dtype == DType::kI8) return kI8;
  return dtype == DType::kF8E4M3 ? kF8 : kBf16;
}

}  // namespace slidesparse
