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
  const std::int64_t last = task.first_position + tile + Rows - 1;  // of the tile's last row
  if (last < begin) return;                                         // no row of the tile sees this block
  const __m512 scale = _mm512_set1_ps(task.scale * kLog2E);
  score_tile<Rows>(task.q + tile * task.q_stride, task.q_stride, keys, task.head_dim / 2,
                   scratch.score + tile * kKeyBlock);
  for (int r = tile; r < tile + Rows; ++r) {
    const std::int64_t visible = std::clamp<std::int64_t>(task.first_position + r + 1 - begin, 0, kKeyBlock);
    soften_row(scratch, r, static_cast<int>(visible), scale);
  }
  const int used = static_cast<int>(std::min<std::int64_t>(kKeyBlock, last + 1 - begin));
  value_row<Rows>(scratch.weight + tile * kKeyBlock, keys + task.head_dim / 2 * kKeyBlock, width,
                  (used + 1) / 2, scratch.shrink + tile, scratch.out + tile * width);
}

SLIDESPARSE_TARGET void attend(const AttendTask& task, std::byte* memory) {
  const Scratch scratch = carve(memory, task.head_dim);
  const std::int64_t width = padded_dim(task.head_dim);
  std::memset(scratch.out, 0, static_cast<std::size_t>(task.rows * width) * sizeof(float));
  for (int r = 0; r < task.rows; ++r) {
    scratch.largest[r] = kLowest;
    scratch.sum[r] = 0;
  }
  const std::int64_t last = task.first_position + task.rows - 1;
  const std::byte* block = task.packed;
  for (std::int64_t begin = 0; begin <= last; begin += kKeyBlock, block += packed_bytes(task.head_dim)) {
    const auto* keys = reinterpret_cast<const std::uint32_t*>(block);
    for (int tile = 0; tile < task.rows; tile += kRowTile) {
      switch (std::min(kRowTile, task.rows - tile)) {
        case 6:
          attend_tile<6>(task, scratch, tile, begin, keys);
          break;
        case 5:
          attend_tile<5>(task, scratch, tile, begin, keys);
          break;
        case 4:
          attend_tile<4>(task, scratch, tile, begin, keys);
          break;
        case 3:
          attend_tile<3>(task, scratch, tile, begin, keys);
          break;
        case 2:
          attend_tile<2>(task, scratch, tile, begin, keys);
          break;
        default:
          attend_tile<1>(task, scratch, tile, begin, keys);
          break;
      }
    }
  }
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

// Lane i of the result is the sum of all lanes of v[i].
SLIDESPARSE_TARGET inline __m512 sum_rows_16(__m512* v) {
  __m512i words[16];
  for (int i = 0; i < 16; ++i) words[i] = _mm512_castps_si512(v[i]);
  transpose_16(words);
  for (int step = 8; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) {
      words[i] = _mm512_castps_si512(
          _mm512_add_ps(_mm512_castsi512_ps(words[i]), _mm512_castsi512_ps(words[i + step])));
    }
  }
  return _mm512_castsi512_ps(words[0]);
}

// Scores of 16 keys (of which `count` exist) for one head.
SLIDESPARSE_TARGET inline __m512 decode_scores(const DecodeTask& task, const std::uint16_t* q,
                                               std::int64_t first, int count) {
  __m512 acc[16];
  for (int j = 0; j < 16; ++j) {
    acc[j] = _mm512_setzero_ps();
    if (j >= count) continue;
    const std::uint16_t* key = task.rows.keys[first + j] + task.rows.offset;
    std::int64_t i = 0;
    for (; i + 32 <= task.head_dim; i += 32) {
      acc[j] =
          _mm512_dpbf16_ps(acc[j], as_bf16(_mm512_loadu_si512(q + i)), as_bf16(_mm512_loadu_si512(key + i)));
    }
    if (i < task.head_dim) {
      const auto mask = static_cast<__mmask32>((1u << (task.head_dim - i)) - 1u);
      acc[j] = _mm512_dpbf16_ps(acc[j], as_bf16(_mm512_maskz_loadu_epi16(mask, q + i)),
                                as_bf16(_mm512_maskz_loadu_epi16(mask, key + i)));
    }
  }
  return sum_rows_16(acc);
}

// Scores to weights 2^(s - max) in place; returns one over their sum.
SLIDESPARSE_TARGET float soften(float* scores, std::int64_t context, __m512 highest) {
  const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(highest));
  __m512 total = _mm512_setzero_ps();
  for (std::int64_t t = 0; t < context; t += 16) {
    const __m512 weight = exp2_vector(_mm512_sub_ps(_mm512_load_ps(scores + t), top));
    total = _mm512_add_ps(total, weight);
    _mm512_store_ps(scores + t, weight);
  }
  return 1.0f / _mm512_reduce_add_ps(total);
}

// Outputs of Heads heads for 16 x Vectors channels from `column` on.
template <int Heads, int Vectors>
SLIDESPARSE_TARGET void decode_values(const DecodeTask& task, int head, const float* scores,
                                      std::int64_t stride, std::int64_t column, const float* inverse) {
  __m512 acc[Heads][Vectors];
#pragma GCC unroll 8
  for (int h = 0; h < Heads; ++h) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) acc[h][v] = _mm512_setzero_ps();
  }
  __mmask16 masks[Vectors];
  for (int v = 0; v < Vectors; ++v) {
    const std::int64_t left = task.head_dim - column - v * 16;
    masks[v] = static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1u);
  }
  for (std::int64_t t = 0; t < task.context; ++t) {
    const std::uint16_t* row = task.rows.values[t] + task.rows.offset + column;
    __m512 value[Vectors];
    for (int v = 0; v < Vectors; ++v) {
      value[v] = _mm512_castsi512_ps(
          _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(masks[v], row + v * 16)), 16));
    }
    for (int h = 0; h < Heads; ++h) {
      const __m512 weight = _mm512_set1_ps(scores[(head + h) * stride + t]);
      for (int v = 0; v < Vectors; ++v) acc[h][v] = _mm512_fmadd_ps(weight, value[v], acc[h][v]);
    }
  }
  for (int h = 0; h < Heads; ++h) {
    for (int v = 0; v < Vectors; ++v) {
      const __m512 result = _mm512_mul_ps(acc[h][v], _mm512_set1_ps(inverse[h]));
      _mm256_mask_storeu_epi16(task.out + (head + h) * task.out_stride + column + v * 16, masks[v],
                               reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(result)));
    }
  }
}

template <int Heads>
SLIDESPARSE_TARGET void decode_heads(const DecodeTask& task, int head, float* scores, std::int64_t stride) {
  float inverse[Heads];
  for (int h = 0; h < Heads; ++h) {
    float* row = scores + (head + h) * stride;
    __m512 highest = _mm512_set1_ps(kLowest);
    for (std::int64_t t = 0; t < task.context; t += 16)
      highest = _mm512_max_ps(_mm512_load_ps(row + t), highest);
    inverse[h] = soften(row, task.context, highest);
  }
  for (std::int64_t column = 0; column < task.head_dim; column += 64) {
    switch (std::min<std::int64_t>(4, (task.head_dim - column + 15) / 16)) {
      case 4:
        decode_values<Heads, 4>(task, head, scores, stride, column, inverse);
        break;
      case 3:
        decode_values<Heads, 3>(task, head, scores, stride, column, inverse);
        break;
      case 2:
        decode_values<Heads, 2>(task, head, scores, stride, column, inverse);
        break;
      default:
        decode_values<Heads, 1>(task, head, scores, stride, column, inverse);
        break;
    }
  }
}

SLIDESPARSE_TARGET void decode(const DecodeTask& task, float* scores) {
  const std::int64_t stride = (task.context + 15) / 16 * 16;
  const __m512 scale = _mm512_set1_ps(task.scale * kLog2E);
  for (std::int64_t t = 0; t < task.context; t += 16) {
    const int count = static_cast<int>(std::min<std::int64_t>(16, task.context - t));
    const auto mask = static_cast<__mmask16>((1u << count) - 1u);
    for (int h = 0; h < task.heads; ++h) {
      const __m512 score = decode_scores(task, task.q + h * task.q_stride, t, count);
      _mm512_store_ps(scores + h * stride + t,
                      _mm512_mask_mul_ps(_mm512_set1_ps(kLowest), mask, score, scale));
    }
  }
  for (int h = 0; h < task.heads; h += 4) {
    switch (std::min(4, task.heads - h)) {
      case 4:
        decode_heads<4>(task, h, scores, stride);
        break;
      case 3:
        decode_heads<3>(task, h, scores, stride);
        break;
      case 2:
        decode_heads<2>(task, h, scores, stride);
        break;
      default:
        decode_heads<1>(task, h, scores, stride);
        break;
    }
  }
}

}  // namespace

const AttentionKernels kAvx512Attention{packed_bytes, pack, attend_scratch_bytes, attend, decode};

}  // namespace slidesparse::kernels
