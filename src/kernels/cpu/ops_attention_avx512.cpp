#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "core/numeric.h"
#include "kernels/cpu/ops_attention.h"

// Flash-style attention on BF16 dot products (vdpbf16ps: each FP32 lane adds two BF16 products).
//
//   scores   lanes = 16 keys      keys packed   [head_dim / 2][64 keys][2]      q pair broadcast
//   outputs  lanes = 16 channels  values packed [32 key pairs][padded_dim][2]   weight pair broadcast
//
// Register tile: 6 query rows x 4 vectors = 24 accumulators, so 24 products hang on 4 loads and 6 broadcasts.
// GCC 12's own intrinsics pass an undefined register where masks are full, and it warns about that when it
// inlines them.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#define SLIDESPARSE_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

namespace slidesparse::kernels {
namespace {

constexpr int kRowTile = 6;
constexpr int kVectors = kKeyBlock / 16;
constexpr float kLowest = -1e30f;
constexpr float kLog2E = 1.44269504f;
static_assert(kQueryBlock % kRowTile == 0);

std::int64_t padded_dim(std::int64_t head_dim) {
  return (head_dim + 15) / 16 * 16;
}

std::int64_t packed_bytes(std::int64_t head_dim) {
  return (head_dim + padded_dim(head_dim)) * kKeyBlock * 2;
}

SLIDESPARSE_TARGET inline __m512bh as_bf16(__m512i x) {
  return reinterpret_cast<__m512bh>(x);
}

// 2^x to 3e-6 relative; 0 for very negative x.
SLIDESPARSE_TARGET inline __m512 exp2_vector(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(1.333355815e-3f);  // ln(2)^k / k!, highest first
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.618129107e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.550410866e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.402265070e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.931471806e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

// Transposes a 16 x 16 matrix of 32-bit words in registers.
SLIDESPARSE_TARGET inline void transpose_16(__m512i* v) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    v[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    v[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

SLIDESPARSE_TARGET void pack(const KeyValueRows& rows, std::int64_t first, int count, std::int64_t head_dim,
                             std::byte* packed) {
  auto* keys = reinterpret_cast<std::uint32_t*>(packed);
  const std::int64_t pairs = head_dim / 2;
  for (int key = 0; key < kKeyBlock; key += 16) {
    for (std::int64_t pair = 0; pair < pairs; pair += 16) {
      const auto mask = static_cast<__mmask16>(pairs - pair >= 16 ? 0xffffu : (1u << (pairs - pair)) - 1u);
      __m512i v[16];
      for (int j = 0; j < 16; ++j) {
        v[j] = key + j < count
                   ? _mm512_maskz_loadu_epi32(mask, rows.keys[first + key + j] + rows.offset + 2 * pair)
                   : _mm512_setzero_si512();
      }
      transpose_16(v);
      for (int i = 0; i < 16 && pair + i < pairs; ++i) {
        _mm512_store_si512(keys + (pair + i) * kKeyBlock + key, v[i]);
      }
    }
  }
  std::uint32_t* values = keys + pairs * kKeyBlock;
  const std::int64_t width = padded_dim(head_dim);
  for (int j = 0; j < kKeyBlock; j += 2) {
    for (std::int64_t i = 0; i < head_dim; i += 16) {
      const auto mask = static_cast<__mmask16>(head_dim - i >= 16 ? 0xffffu : (1u << (head_dim - i)) - 1u);
      const auto row = [&](int key) SLIDESPARSE_TARGET {
        return key < count ? _mm512_cvtepu16_epi32(
                                 _mm256_maskz_loadu_epi16(mask, rows.values[first + key] + rows.offset + i))
                           : _mm512_setzero_si512();
      };
      _mm512_store_si512(values + j / 2 * width + i,
                         _mm512_or_si512(row(j), _mm512_slli_epi32(row(j + 1), 16)));
    }
  }
}

struct Scratch {
  float* score;           // [kQueryBlock, kKeyBlock]
  float* out;             // [kQueryBlock, padded_dim]
  std::uint16_t* weight;  // BF16 [kQueryBlock, kKeyBlock]
  float* largest;         // [kQueryBlock], of scores in units of log2
  float* sum;
  float* shrink;
};

Scratch carve(std::byte* memory, std::int64_t head_dim) {
  Scratch scratch{};
  scratch.score = reinterpret_cast<float*>(memory);
  scratch.out = scratch.score + kQueryBlock * kKeyBlock;
  scratch.weight = reinterpret_cast<std::uint16_t*>(scratch.out + kQueryBlock * padded_dim(head_dim));
  scratch.largest = reinterpret_cast<float*>(scratch.weight + kQueryBlock * kKeyBlock);
  scratch.sum = scratch.largest + kQueryBlock;
  scratch.shrink = scratch.sum + kQueryBlock;
  return scratch;
}

std::int64_t attend_scratch_bytes(std::int64_t head_dim) {
  return kQueryBlock * (kKeyBlock * 6 + padded_dim(head_dim) * 4 + 12);
}

// Two BF16 values broadcast to all lanes.
SLIDESPARSE_TARGET inline __m512bh broadcast_pair(const std::uint16_t* pair) {
  std::uint32_t bits;
  std::memcpy(&bits, pair, sizeof(bits));
  return as_bf16(_mm512_set1_epi32(static_cast<int>(bits)));
}

template <int Rows>
SLIDESPARSE_TARGET void score_tile(const std::uint16_t* q, std::int64_t q_stride, const std::uint32_t* keys,
                                   std::int64_t pairs, float* score) {
  __m512 acc[Rows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) acc[r][v] = _mm512_setzero_ps();
  }
  for (std::int64_t i = 0; i < pairs; ++i) {
    __m512bh key[kVectors];
    for (int v = 0; v < kVectors; ++v) key[v] = as_bf16(_mm512_load_si512(keys + i * kKeyBlock + v * 16));
    for (int r = 0; r < Rows; ++r) {
      const __m512bh value = broadcast_pair(q + r * q_stride + 2 * i);
      for (int v = 0; v < kVectors; ++v) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], value, key[v]);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < kVectors; ++v) _mm512_store_ps(score + r * kKeyBlock + v * 16, acc[r][v]);
  }
}

// out[r] = out[r] * shrink[r] + sum over key pairs, for Vectors x 16 channels.
template <int Rows, int Vectors>
SLIDESPARSE_TARGET void value_tile(const std::uint16_t* weight, const std::uint32_t* values,
                                   std::int64_t width, int pairs, const float* shrink, float* out) {
  __m512 acc[Rows][Vectors];
  for (int r = 0; r < Rows; ++r) {
    const __m512 factor = _mm512_set1_ps(shrink[r]);
    for (int v = 0; v < Vectors; ++v)
      acc[r][v] = _mm512_mul_ps(_mm512_load_ps(out + r * width + v * 16), factor);
  }
  for (int j = 0; j < pairs; ++j) {
    __m512bh value[Vectors];
    for (int v = 0; v < Vectors; ++v) value[v] = as_bf16(_mm512_load_si512(values + j * width + v * 16));
    for (int r = 0; r < Rows; ++r) {
      const __m512bh p = broadcast_pair(weight + r * kKeyBlock + 2 * j);
      for (int v = 0; v < Vectors; ++v) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], p, value[v]);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) _mm512_store_ps(out + r * width + v * 16, acc[r][v]);
  }
}

template <int Rows>
SLIDESPARSE_TARGET void value_row(const std::uint16_t* weight, const std::uint32_t* values,
                                  std::int64_t width, int pairs, const float* shrink, float* out) {
  for (std::int64_t i = 0; i < width; i += 64) {
    switch (std::min<std::int64_t>(4, (width - i) / 16)) {
      case 4:
        value_tile<Rows, 4>(weight, values + i, width, pairs, shrink, out + i);
        break;
      case 3:
        value_tile<Rows, 3>(weight, values + i, width, pairs, shrink, out + i);
        break;
      case 2:
        value_tile<Rows, 2>(weight, values + i, width, pairs, shrink, out + i);
        break;
      default:
        value_tile<Rows, 1>(weight, values + i, width, pairs, shrink, out + i);
        break;
    }
  }
}

// Scores of one row to BF16 weights 2^(s - max); the first `visible` keys count.
SLIDESPARSE_TARGET inline void soften_row(const Scratch& scratch, int r, int visible, __m512 scale) {
  const float* score = scratch.score + r * kKeyBlock;
  const std::uint64_t seen = visible >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << visible) - 1u;
  __m512 s[kVectors];
  __m512 highest = _mm512_set1_ps(scratch.largest[r]);
  for (int v = 0; v < kVectors; ++v) {
    const auto mask = static_cast<__mmask16>(seen >> (16 * v));
    s[v] = _mm512_mask_mul_ps(_mm512_set1_ps(kLowest), mask, _mm512_load_ps(score + v * 16), scale);
    highest = _mm512_max_ps(s[v], highest);
  }
  const float top = _mm512_reduce_max_ps(highest);
  const __m512 all_top = _mm512_set1_ps(top);
  __m512 total = _mm512_setzero_ps();
  for (int v = 0; v < kVectors; v += 2) {
    const __m512 low = exp2_vector(_mm512_sub_ps(s[v], all_top));
    const __m512 high = exp2_vector(_mm512_sub_ps(s[v + 1], all_top));
    total = _mm512_add_ps(total, _mm512_add_ps(low, high));
    const __m512bh pair = _mm512_cvtne2ps_pbh(high, low);
    _mm512_store_si512(scratch.weight + r * kKeyBlock + v * 16, reinterpret_cast<__m512i>(pair));
  }
  const float shrink = _mm512_cvtss_f32(exp2_vector(_mm512_set1_ps(scratch.largest[r] - top)));
  scratch.shrink[r] = shrink;
  scratch.sum[r] = scratch.sum[r] * shrink + _mm512_reduce_add_ps(total);
  scratch.largest[r] = top;
}

template <int Rows>
SLIDESPARSE_TARGET void attend_tile(const AttendTask& task, const Scratch& scratch, int tile,
                                    std::int64_t begin, const std::uint32_t* keys) {
  const std::int64_t width = padded_dim(task.head_dim);
  const std::int64_t last = task.position(tile + Rows - 1);
  if (last < begin) return;  // no row of the tile sees this block
  const __m512 scale = _mm512_set1_ps(task.scale * kLog2E);
  score_tile<Rows>(task.q + tile * task.q_stride, task.q_stride, keys, task.head_dim / 2,
                   scratch.score + tile * kKeyBlock);
  for (int r = tile; r < tile + Rows; ++r) {
    const std::int64_t visible = std::clamp<std::int64_t>(task.position(r) + 1 - begin, 0, kKeyBlock);
    soften_row(scratch, r, static_cast<int>(visible), scale);
  }
  const int used = static_cast<int>(std::min<std::int64_t>(kKeyBlock, last + 1 - begin));
  value_row<Rows>(scratch.weight + tile * kKeyBlock, keys + task.head_dim / 2 * kKeyBlock, width,
                  (used + 1) / 2, scratch.shrink + tile, scratch.out + tile * width);
}

void attend_begin(const AttendTask& task, std::byte* memory) {
  const Scratch scratch = carve(memory, task.head_dim);
  std::memset(scratch.out, 0,
              static_cast<std::size_t>(task.rows * padded_dim(task.head_dim)) * sizeof(float));
  for (int r = 0; r < task.rows; ++r) {
    scratch.largest[r] = kLowest;
    scratch.sum[r] = 0;
  }
}

SLIDESPARSE_TARGET void attend_block(const AttendTask& task, std::int64_t first, const std::byte* packed,
                                     std::byte* memory) {
  const Scratch scratch = carve(memory, task.head_dim);
  const auto* keys = reinterpret_cast<const std::uint32_t*>(packed);
  for (int tile = 0; tile < task.rows; tile += kRowTile) {
    switch (std::min(kRowTile, task.rows - tile)) {
      case 6:
        attend_tile<6>(task, scratch, tile, first, keys);
        break;
      case 5:
        attend_tile<5>(task, scratch, tile, first, keys);
        break;
      case 4:
        attend_tile<4>(task, scratch, tile, first, keys);
        break;
      case 3:
        attend_tile<3>(task, scratch, tile, first, keys);
        break;
      case 2:
        attend_tile<2>(task, scratch, tile, first, keys);
        break;
      default:
        attend_tile<1>(task, scratch, tile, first, keys);
        break;
    }
  }
}

SLIDESPARSE_TARGET void attend_end(const AttendTask& task, std::byte* memory) {
  const Scratch scratch = carve(memory, task.head_dim);
  const std::int64_t width = padded_dim(task.head_dim);
  for (int r = 0; r < task.rows; ++r) {
    const __m512 inverse = _mm512_set1_ps(1.0f / scratch.sum[r]);
    for (std::int64_t i = 0; i < task.head_dim; i += 16) {
      const auto mask =
          static_cast<__mmask16>(task.head_dim - i >= 16 ? 0xffffu : (1u << (task.head_dim - i)) - 1u);
      const __m512 value = _mm512_mul_ps(_mm512_load_ps(scratch.out + r * width + i), inverse);
      _mm256_mask_storeu_epi16(task.out + r * task.out_stride + i, mask,
                               reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
    }
  }
}

}  // namespace

const AttentionKernels kAvx512Attention{packed_bytes, pack,         attend_scratch_bytes,
                                        attend_begin, attend_block, attend_end};

}  // namespace slidesparse::kernels
