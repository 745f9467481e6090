#pragma once

#include <cstddef>
#include <cstdint>

#include "core/cpu.h"
#include "slidesparse/core/dtype.h"

// The loops of the CPU's matrix products. Every weight row and every token is cut into blocks of 64 lanes,
// and every output is a dot product over blocks, so that small and large M, dense and packed weights run
// through one order of summation:
//
//   row of W   | block 0 | block 1 | ... | block 31 | block 32 ...      64 slots a block, the last may be
//   part empty token of X | block 0 | block 1 | ...                                 same slots, zero where
//   the row has none
//              '---------- one chunk: summed in 16 partial sums, then reduced -'
//
// Patterns whose groups do not divide 64 leave slots empty: 4:6, 8:10 and 10:12 use 60 lanes a block, 12:14
// uses 56. Kernels know pointers and sizes only; who calls them owns all memory.
namespace slidesparse {

inline constexpr std::int64_t kBlockSlots = 64;
// Blocks between two reductions: 2 KiB of a panel row, so that six tokens and four rows stay in a first-level
// cache.
inline constexpr std::int64_t kChunkBlocksInt8 = 32;
inline constexpr std::int64_t kChunkBlocksBf16 = 16;
// Tokens that a tile takes at most, and rows that tiles and streaming kernels take at a time.
inline constexpr std::int64_t kTileTokens = 6;
inline constexpr std::int64_t kTileRows = 4;
// Tokens that tiles of AMX, or of AVX2, take together.
inline constexpr std::int64_t kTokenGroup = 16;
// Tokens that a streaming kernel takes at most.
inline constexpr std::int64_t kStreamTokens = 6;

// Groups of 2N lanes in one block, and the lanes they cover. N = 0 stands for lanes that are not packed.
constexpr std::int64_t block_groups(int half_group) {
  return half_group == 0 ? kBlockSlots : kBlockSlots / (2 * half_group);
}
constexpr std::int64_t block_lanes(int half_group) {
  return half_group == 0 ? kBlockSlots : block_groups(half_group) * 2 * half_group;
}

// A weight matrix as it lies in memory: each row has a packed part (values + codes) followed by a dense part;
// either may be empty. Elements have 1 byte (I8, F8_E4M3) or 2 (BF16).
struct GemmRows {
  const std::uint8_t* values = nullptr;
  std::int64_t value_stride = 0;  // bytes from row to row, and bytes of one row
  const std::uint8_t* codes = nullptr;
  std::int64_t code_stride = 0;    // bytes from row to row, and bytes of one row
  int half_group = 0;              // N of the packed part
  std::int64_t packed_values = 0;  // elements of the packed part of one row
  std::int64_t packed_blocks = 0;
  std::int64_t dense_lanes = 0;
  std::int64_t dense_blocks = 0;

  std::int64_t blocks() const { return packed_blocks + dense_blocks; }
};

// One instruction set's loops for one dtype of weights. "Panel" elements are what `tile` multiplies: bytes
// for I8, BF16 otherwise; blocks of kBlockSlots of them.
struct GemmKernels {
  Isa isa = Isa::kPortable;
  // I8 panels hold w + weight_offset as unsigned bytes (0: signed w), so that sums come out too large by
  // weight_offset * sum(x).
  std::int32_t weight_offset = 0;

  // Panel blocks [first, first + count) of one row, zero in slots without a lane. Reads nothing outside the
  // row.
  void (*expand)(const GemmRows& rows, std::int64_t row, std::int64_t first, std::int64_t count,
                 void* panel) = nullptr;

  // E4M3 activations [blocks * 64] to panel elements, in the slot order that `expand` gives F8_E4M3 weights.
  // Null for others.
  void (*widen)(const std::uint8_t* x, std::int64_t blocks, std::uint16_t* out) = nullptr;

  // sums[t * ld + r] = (first ? 0 : sums[t * ld + r]) + dot(row r, token t) over `blocks` blocks, 1 <= tokens
  // <= kTileTokens, any rows. Strides in panel elements; sums are int32 for I8, float otherwise.
  void (*tile)(const void* panel, std::int64_t panel_stride, std::int64_t rows, const void* x,
               std::int64_t x_stride, std::int64_t tokens, std::int64_t blocks, bool first, void* sums,
               std::int64_t ld) = nullptr;

  // The same sums straight from the stored rows [row, row + count), 1 <= tokens <= kStreamTokens, for all
  // blocks. Null: none.
  void (*stream)(const GemmRows& rows, std::int64_t row, std::int64_t count, const void* x,
                 std::int64_t x_stride, std::int64_t tokens, void* sums, std::int64_t ld) = nullptr;

  // Multiplies registers with each other `rounds` times and returns how many multiplications and additions
  // that were: the limit of `tile`. Null where there is no such instruction to speak of.
  std::int64_t (*peak)(std::int64_t rounds) = nullptr;

  // The same as `tile` for many tokens, with AMX or AVX2: null otherwise. Tokens are in groups of kTokenGroup,
  // each brought into the order that tiles want by `arrange`, zeros where there are no tokens; any tokens.
  // `x` points to the first group's first block; x_stride as for rows: a group takes kTokenGroup * x_stride
  // elements, a block of it kTokenGroup * kBlockSlots. Sums are of use after the call with `last`; room for
  // rows and tokens up to the next multiple of kTokenGroup is written, and rows of the panel are read up to
  // there.
  void (*tile_arranged)(const void* panel, std::int64_t panel_stride, std::int64_t rows, const void* x,
                        std::int64_t x_stride, std::int64_t tokens, std::int64_t blocks, bool first,
                        bool last, void* sums, std::int64_t ld) = nullptr;
  // kTokenGroup token rows of row_bytes, a multiple of 64, in place; scratch of the same size.
  void (*arrange)(std::byte* group, std::int64_t row_bytes, std::byte* scratch) = nullptr;
};

// Reads `count` 8-byte words as fast as memory gives them; returns their sum.
std::uint64_t read_words(const std::uint64_t* words, std::int64_t count);

// dtype: kI8, kF8E4M3 or kBF16.
const GemmKernels& gemm_kernels(Isa isa, DType dtype);

const GemmKernels& portable_gemm_kernels(DType dtype);
const GemmKernels& avx2_gemm_kernels(DType dtype);
// Panels of packed and dense rows against groups of tokens; sums have an order of their own.
const GemmKernels& avx2_tile_kernels(DType dtype);
const GemmKernels& avx512_i8_gemm_kernels();
const GemmKernels& avx512_f8_gemm_kernels();
const GemmKernels& avx512_bf16_gemm_kernels();
// Only where has_amx(): packed and dense panels on tiles. BF16 sums have an order of their own.
const GemmKernels& amx_gemm_kernels(DType dtype);

}  // namespace slidesparse
