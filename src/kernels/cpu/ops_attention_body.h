// Attention in FP32 arithmetic, compiled for each instruction set that has no BF16 dot products: the
// including file defines SLIDESPARSE_TARGET, SLIDESPARSE_ATTENTION (the name of the table) and
// SLIDESPARSE_MULTIPLY_ADD(sums, factor, values), sums += factor * values for vectors of eight. Sums are
// vectors of the compiler's own kind in unrolled loops, so that they stay in registers; it makes of them what
// the target has.
#include <algorithm>
#include <cstring>

#include "core/fast_exp.h"
#include "core/numeric.h"
#include "kernels/cpu/ops_attention.h"

namespace slidesparse::kernels {
namespace {

constexpr int kLanes = 16;
constexpr int kRowTile = 4;
constexpr int kHalf = 8;

// Eight floats anywhere in memory.
using Vector [[gnu::vector_size(32), gnu::aligned(4), gnu::may_alias]] = float;

const Vector& vector_at(const float* from) {
  return *reinterpret_cast<const Vector*>(from);
}
Vector& vector_at(float* from) {
  return *reinterpret_cast<Vector*>(from);
}
constexpr float kLowest = -1e30f;

std::int64_t padded_dim(std::int64_t head_dim) {
  return (head_dim + kLanes - 1) / kLanes * kLanes;
}

// A packed block: keys [head_dim][kKeyBlock], then values [kKeyBlock][padded_dim], both FP32.
std::int64_t packed_bytes(std::int64_t head_dim) {
  return (head_dim + padded_dim(head_dim)) * kKeyBlock * static_cast<std::int64_t>(sizeof(float));
}

SLIDESPARSE_TARGET void pack(const KeyValueRows& rows, std::int64_t first, int count, std::int64_t head_dim,
                             std::byte* packed) {
  auto* keys = reinterpret_cast<float*>(packed);
  float* values = keys + head_dim * kKeyBlock;
  const std::int64_t width = padded_dim(head_dim);
  std::memset(packed, 0, static_cast<std::size_t>(packed_bytes(head_dim)));
  for (int j = 0; j < count; ++j) {
    const std::uint16_t* key = rows.keys[first + j] + rows.offset;
    const std::uint16_t* value = rows.values[first + j] + rows.offset;
    for (std::int64_t i = 0; i < head_dim; ++i) {
      keys[i * kKeyBlock + j] = bf16_to_float(key[i]);
      values[j * width + i] = bf16_to_float(value[i]);
    }
  }
}

struct Scratch {
  float* q;      // [kQueryBlock, head_dim]
  float* score;  // [kQueryBlock, kKeyBlock]
  float* out;    // [kQueryBlock, padded_dim]
  float* largest;
  float* sum;
};

Scratch carve(std::byte* memory, std::int64_t head_dim) {
  Scratch scratch{};
  scratch.q = reinterpret_cast<float*>(memory);
  scratch.score = scratch.q + kQueryBlock * head_dim;
  scratch.out = scratch.score + kQueryBlock * kKeyBlock;
  scratch.largest = scratch.out + kQueryBlock * padded_dim(head_dim);
  scratch.sum = scratch.largest + kQueryBlock;
  return scratch;
}

std::int64_t attend_scratch_bytes(std::int64_t head_dim) {
  const std::int64_t floats = kQueryBlock * (head_dim + kKeyBlock + padded_dim(head_dim) + 2);
  return (floats * static_cast<std::int64_t>(sizeof(float)) + 63) / 64 * 64;
}

// score[r][j] = q[r] . key[j] for kRowTile rows and all keys of a block.
SLIDESPARSE_TARGET void score_tile(const float* q, const float* keys, std::int64_t head_dim, float* score) {
  for (int chunk = 0; chunk < kKeyBlock; chunk += kLanes) {
    Vector acc[kRowTile][2] = {};
    for (std::int64_t i = 0; i < head_dim; ++i) {
      const float* key = keys + i * kKeyBlock + chunk;
#pragma GCC unroll 4
      for (int r = 0; r < kRowTile; ++r) {
        const float value = q[r * head_dim + i];
        SLIDESPARSE_MULTIPLY_ADD(acc[r][0], value, vector_at(key));
        SLIDESPARSE_MULTIPLY_ADD(acc[r][1], value, vector_at(key + kHalf));
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRowTile; ++r) {
      vector_at(score + r * kKeyBlock + chunk) = acc[r][0];
      vector_at(score + r * kKeyBlock + chunk + kHalf) = acc[r][1];
    }
  }
}

// out[r] += sum_j p[r][j] value[j].
SLIDESPARSE_TARGET void value_tile(const float* p, const float* values, std::int64_t width, int keys,
                                   float* out) {
  for (std::int64_t chunk = 0; chunk < width; chunk += kLanes) {
    Vector acc[kRowTile][2];
#pragma GCC unroll 4
    for (int r = 0; r < kRowTile; ++r) {
      acc[r][0] = vector_at(out + r * width + chunk);
      acc[r][1] = vector_at(out + r * width + chunk + kHalf);
    }
    for (int j = 0; j < keys; ++j) {
      const float* value = values + j * width + chunk;
#pragma GCC unroll 4
      for (int r = 0; r < kRowTile; ++r) {
        const float weight = p[r * kKeyBlock + j];
        SLIDESPARSE_MULTIPLY_ADD(acc[r][0], weight, vector_at(value));
        SLIDESPARSE_MULTIPLY_ADD(acc[r][1], weight, vector_at(value + kHalf));
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRowTile; ++r) {
      vector_at(out + r * width + chunk) = acc[r][0];
      vector_at(out + r * width + chunk + kHalf) = acc[r][1];
    }
  }
}

// The largest of a row of scores times `scale`, and of `highest`.
SLIDESPARSE_TARGET float largest_of(const float* score, float scale, float highest) {
  Vector most[2];
  most[0] = most[1] = Vector{} + highest;
  for (int j = 0; j < kKeyBlock; j += kLanes) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const Vector scaled = vector_at(score + j + half * kHalf) * scale;
      most[half] = scaled > most[half] ? scaled : most[half];
    }
  }
  for (int lane = 0; lane < kHalf; ++lane) {
    highest = std::max(highest, most[0][lane]);
    highest = std::max(highest, most[1][lane]);
  }
  return highest;
}

// Turns one row of scores into weights e^(s - max), of which the first `visible` count; rescales what was
// summed before.
SLIDESPARSE_TARGET void soften_row(float* score, int visible, float scale, float* largest, float* sum,
                                   float* out, std::int64_t width) {
  for (int j = visible; j < kKeyBlock; ++j) score[j] = kLowest;
  const float highest = largest_of(score, scale, *largest);
  const float shrink = fast_exp(*largest - highest);
  for (int j = 0; j < kKeyBlock; ++j) score[j] = fast_exp(score[j] * scale - highest);
  for (int j = visible; j < kKeyBlock; ++j) score[j] = 0.0f;
  Vector lanes[2] = {};
  for (int j = 0; j < kKeyBlock; j += kLanes) {
    lanes[0] += vector_at(score + j);
    lanes[1] += vector_at(score + j + kHalf);
  }
  float total = 0;
  for (int lane = 0; lane < kHalf; ++lane) total += lanes[0][lane];
  for (int lane = 0; lane < kHalf; ++lane) total += lanes[1][lane];
  *sum = *sum * shrink + total;
  *largest = highest;
  if (shrink != 1.0f) {
    for (std::int64_t i = 0; i < width; ++i) out[i] *= shrink;
  }
}

SLIDESPARSE_TARGET void attend_begin(const AttendTask& task, std::byte* memory) {
  const Scratch scratch = carve(memory, task.head_dim);
  std::memset(memory, 0, static_cast<std::size_t>(attend_scratch_bytes(task.head_dim)));
  for (int r = 0; r < task.rows; ++r) {
    for (std::int64_t i = 0; i < task.head_dim; ++i) {
      scratch.q[r * task.head_dim + i] = bf16_to_float(task.q[r * task.q_stride + i]);
    }
    scratch.largest[r] = kLowest;
  }
}

SLIDESPARSE_TARGET void attend_block(const AttendTask& task, std::int64_t first, const std::byte* packed,
                                     std::byte* memory) {
  const Scratch scratch = carve(memory, task.head_dim);
  const std::int64_t width = padded_dim(task.head_dim);
  const auto* keys = reinterpret_cast<const float*>(packed);
  const float* values = keys + task.head_dim * kKeyBlock;
  const int used = static_cast<int>(std::min<std::int64_t>(kKeyBlock, task.keys() - first));
  for (int tile = 0; tile < task.rows; tile += kRowTile) {
    float* score = scratch.score + tile * kKeyBlock;
    score_tile(scratch.q + tile * task.head_dim, keys, task.head_dim, score);
    for (int r = tile; r < std::min(tile + kRowTile, task.rows); ++r) {
      const std::int64_t visible = std::clamp<std::int64_t>(task.position(r) + 1 - first, 0, kKeyBlock);
      soften_row(scratch.score + r * kKeyBlock, static_cast<int>(visible), task.scale, scratch.largest + r,
                 scratch.sum + r, scratch.out + r * width, width);
    }
    value_tile(score, values, width, used, scratch.out + tile * width);
  }
}

SLIDESPARSE_TARGET void attend_end(const AttendTask& task, std::byte* memory) {
  const Scratch scratch = carve(memory, task.head_dim);
  const std::int64_t width = padded_dim(task.head_dim);
  for (int r = 0; r < task.rows; ++r) {
    const float inverse = 1.0f / scratch.sum[r];
    for (std::int64_t i = 0; i < task.head_dim; ++i) {
      task.out[r * task.out_stride + i] = float_to_bf16(scratch.out[r * width + i] * inverse);
    }
  }
}

}  // namespace

const AttentionKernels SLIDESPARSE_ATTENTION{packed_bytes, pack,         attend_scratch_bytes,
                                             attend_begin, attend_block, attend_end};

}  // namespace slidesparse::kernels
