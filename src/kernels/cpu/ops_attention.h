#pragma once

#include <cstddef>
#include <cstdint>

#include "core/cpu.h"

// Attention kernels on raw pointers. Keys and values are BF16 rows of head_dim elements that may lie anywhere
// (pages of a cache), so they are given as arrays of row pointers plus an offset (elements) that selects the
// head.
namespace slidesparse::kernels {

inline constexpr int kKeyBlock = 64;  // keys of one packed block
inline constexpr int kQueryBlock =
    48;  // query rows of one attend call: a multiple of the register tile's 6 rows

struct KeyValueRows {
  const std::uint16_t* const* keys = nullptr;
  const std::uint16_t* const* values = nullptr;
  std::int64_t offset = 0;
};

// Causal attention of up to kQueryBlock consecutive tokens of one head over packed blocks. Row r sees keys 0
// .. first_position + r.
struct AttendTask {
  const std::uint16_t* q = nullptr;  // [rows, head_dim], stride q_stride
  std::int64_t q_stride = 0;
  int rows = 0;
  std::int64_t first_position = 0;
  const std::byte* packed = nullptr;  // blocks 0 .. (first_position + rows - 1) / kKeyBlock, 64-byte aligned
  std::int64_t head_dim = 0;          // even
  float scale = 1.0f;
  std::uint16_t* out = nullptr;  // [rows, head_dim], stride out_stride
  std::int64_t out_stride = 0;
};

// One token of each of `heads` heads that share keys and values; no packing.
struct DecodeTask {
  const std::uint16_t* q = nullptr;  // [heads, head_dim], stride q_stride
  std::int64_t q_stride = 0;
  int heads = 0;
  KeyValueRows rows;
  std::int64_t context = 0;  // keys seen
  std::int64_t head_dim = 0;
  float scale = 1.0f;
  std::uint16_t* out = nullptr;
  std::int64_t out_stride = 0;
};

struct AttentionKernels {
  // Bytes of one packed block (keys and values); a multiple of 64.
  std::int64_t (*packed_bytes)(std::int64_t head_dim);
  // Packs keys first .. first + count - 1, count <= kKeyBlock; missing ones become zeros.
  void (*pack)(const KeyValueRows& rows, std::int64_t first, int count, std::int64_t head_dim,
               std::byte* packed);
  // Scratch of one attend call, 64-byte aligned.
  std::int64_t (*attend_scratch_bytes)(std::int64_t head_dim);
  void (*attend)(const AttendTask& task, std::byte* scratch);
  // `scores`: decode_scratch_floats(task.heads, task.context) floats, 64-byte aligned.
  void (*decode)(const DecodeTask& task, float* scores);
};

// Floats of scratch of one decode call: each head's row of scores padded to whole vectors, and its outputs.
constexpr std::int64_t decode_scratch_floats(std::int64_t heads, std::int64_t context) {
  return heads * ((context + 15) / 16 * 16);
}

const AttentionKernels& attention_kernels(Isa isa);
inline const AttentionKernels& attention_kernels() {
  return attention_kernels(active_isa());
}

extern const AttentionKernels kPortableAttention;
extern const AttentionKernels kAvx2Attention;
extern const AttentionKernels kAvx512Attention;

}  // namespace slidesparse::kernels
