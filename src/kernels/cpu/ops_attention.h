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

// Up to kQueryBlock query rows that share the keys and values of one head: consecutive tokens of one head
// (`step` 1), or one token of several heads (`step` 0). Row r sees keys 0 .. first_position + r * step.
struct AttendTask {
  const std::uint16_t* q = nullptr;  // [rows, head_dim], stride q_stride
  std::int64_t q_stride = 0;
  int rows = 0;
  std::int64_t first_position = 0;
  int step = 1;
  std::int64_t head_dim = 0;  // even
  float scale = 1.0f;
  std::uint16_t* out = nullptr;  // [rows, head_dim], stride out_stride
  std::int64_t out_stride = 0;

  std::int64_t position(std::int64_t row) const { return first_position + row * step; }
  std::int64_t keys() const { return position(rows - 1) + 1; }  // that some row sees
};

struct AttentionKernels {
  // Bytes of one packed block (keys and values); a multiple of 64.
  std::int64_t (*packed_bytes)(std::int64_t head_dim);
  // Packs keys first .. first + count - 1, count <= kKeyBlock; missing ones become zeros.
  void (*pack)(const KeyValueRows& rows, std::int64_t first, int count, std::int64_t head_dim,
               std::byte* packed);
  // Scratch of one task, 64-byte aligned.
  std::int64_t (*attend_scratch_bytes)(std::int64_t head_dim);
  // begin, then block for `first` = 0, kKeyBlock, .. below task.keys() with that block packed (64-byte
  // aligned), then end, which writes `out`. What a row gets does not depend on the rows beside it, nor on
  // whether they are tokens or heads.
  void (*attend_begin)(const AttendTask& task, std::byte* scratch);
  void (*attend_block)(const AttendTask& task, std::int64_t first, const std::byte* packed,
                       std::byte* scratch);
  void (*attend_end)(const AttendTask& task, std::byte* scratch);
};

const AttentionKernels& attention_kernels(Isa isa);
inline const AttentionKernels& attention_kernels() {
  return attention_kernels(active_isa());
}

extern const AttentionKernels kPortableAttention;
extern const AttentionKernels kAvx2Attention;
extern const AttentionKernels kAvx512Attention;

}  // namespace slidesparse::kernels
