#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "kernels/cuda/numeric.cuh"

// Tiles of keys and values in shared memory, and how they become operands of mma.m16n8k16.
//
// A product's inner and outer indices may be permuted freely when both sides agree. 8-bit codes are read in
// words of four neighbours, so with them (head_dim is the inner index of q k^T and the outer one of p v):
//   inner, a step of 16: thread c of a quad has elements 4c .. 4c + 3, where with BF16 it has 2c, 2c + 1 and
//   8 + 2c, 9 + 2c;
//   outer, 16 elements: the first product has the even ones, the second the odd ones.
namespace slidesparse::cuda {

__device__ inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes from global to shared memory, behind the program's back; zeros unless `there`.
__device__ inline void copy_async(std::uint32_t to, const void* from, bool there) {
  const int bytes = there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void close_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits for all groups of this thread but the last kOpen.
template <int kOpen>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void load_matrices(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ inline void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// d += a b, BF16 with FP32 sums: a [16, 16], b [16, 8].
__device__ inline void multiply(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two E4M3 codes, in the low bytes of the halves of `codes`, as two BF16 values: exact, NaN stays NaN.
__device__ inline std::uint32_t bf16_of_codes(std::uint32_t codes) {
#if __CUDA_ARCH__ >= 890
  const std::uint32_t pair = __byte_perm(codes, 0, 0x4420);
  std::uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<std::uint16_t>(pair)));
  float low, high;
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
      : "=f"(low), "=f"(high)
      : "r"(halves));
  return bf16_pair(low, high);
#else
  // The code's exponent and mantissa are those of a BF16 number that is 2^120 too small.
  const std::uint32_t magnitude = (codes & 0x007f007fu) << 4;
  const std::uint32_t sign = (codes & 0x00800080u) << 8;
  const std::uint32_t power = 0x7b807b80u;  // 2^120
  const std::uint32_t zero = 0x80008000u;   // minus zero keeps the sign of a zero
  std::uint32_t pair;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(magnitude | sign), "r"(power), "r"(zero));
  return pair | __vcmpeq2(magnitude, 0x07f007f0u);
#endif
}

// kRows rows of kDim elements of 16 or 8 bits. 16-byte pieces change places so that eight rows of a column
// of pieces lie in different banks.
template <typename Element, int kDim>
struct KvTile {
  static constexpr bool kCodes = sizeof(Element) == 1;
  static constexpr int kRowBytes = kDim * static_cast<int>(sizeof(Element));
  static constexpr int kPieces = kRowBytes / 16;  // of a row: 4, 8 or 16

  // Byte offset of a piece.
  static __device__ int offset(int row, int piece) {
    const int swizzle = kPieces >= 8 ? row & 7 : (row >> 1) & 3;
    return (row * kPieces + (piece ^ swizzle)) * 16;
  }

  // Adds q k^T to scores: 16 kGroups keys from row 0 on, 8 in each product. `query(step, a)` gives operand a
  // of a step of 16 elements.
  template <int kAtoms, int kGroups, typename Query>
  static __device__ void add_scores(float (&scores)[kAtoms][2 * kGroups][4], std::uint32_t tile, int lane,
                                    Query query) {
    const int row = lane / 16 * 8 + lane % 8;
    const int piece = lane / 8 % 2;
    // A load takes two pieces of a row: one step with BF16, two with codes.
#pragma unroll
    for (int pair = 0; pair < kPieces / 2; ++pair) {
      std::uint32_t a[kCodes ? 2 : 1][kAtoms][4];
#pragma unroll
      for (int half = 0; half < (kCodes ? 2 : 1); ++half) query((kCodes ? 2 : 1) * pair + half, a[half]);
#pragma unroll
      for (int i = 0; i < kGroups; ++i) {
        std::uint32_t k[4];
        load_matrices(k, tile + offset(16 * i + row, 2 * pair + piece));
        if constexpr (!kCodes) {
#pragma unroll
          for (int atom = 0; atom < kAtoms; ++atom) {
            multiply(scores[atom][2 * i], a[0][atom], k[0], k[1]);
            multiply(scores[atom][2 * i + 1], a[0][atom], k[2], k[3]);
          }
        } else {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const Words low = words(k[half]);
            const Words high = words(k[2 + half]);
#pragma unroll
            for (int atom = 0; atom < kAtoms; ++atom) {
              multiply(scores[atom][2 * i], a[half][atom], low.first, low.second);
              multiply(scores[atom][2 * i + 1], a[half][atom], high.first, high.second);
            }
          }
        }
      }
    }
  }

  // Adds p v to out: 16 keys from row `key` on. p: operand a.
  template <int kAtoms>
  static __device__ void add_values(float (&out)[kAtoms][kDim / 8][4], std::uint32_t tile, int key, int lane,
                                    const std::uint32_t (&p)[kAtoms][4]) {
    const int row = key + lane % 16;
    const int piece = lane / 16;
#pragma unroll
    for (int pair = 0; pair < kPieces / 2; ++pair) {
      std::uint32_t v[4];
      load_matrices_transposed(v, tile + offset(row, 2 * pair + piece));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if constexpr (!kCodes) {
#pragma unroll
          for (int atom = 0; atom < kAtoms; ++atom)
            multiply(out[atom][2 * pair + half], p[atom], v[2 * half], v[2 * half + 1]);
        } else {
          const std::uint32_t a = v[2 * half], b = v[2 * half + 1];
          const std::uint32_t even_a = bf16_of_codes(a), odd_a = bf16_of_codes(a >> 8);
          const std::uint32_t even_b = bf16_of_codes(b), odd_b = bf16_of_codes(b >> 8);
#pragma unroll
          for (int atom = 0; atom < kAtoms; ++atom) {
            multiply(out[atom][4 * pair + 2 * half], p[atom], even_a, even_b);
            multiply(out[atom][4 * pair + 2 * half + 1], p[atom], odd_a, odd_b);
          }
        }
      }
    }
  }

  // Which of elements 16 i .. 16 i + 15 of an output row this thread has: calls write(element, x, y) twice,
  // for neighbours. `first`, `second`: sums of products 2 i and 2 i + 1, of which the row's are at 2 half.
  template <typename Write>
  static __device__ void each_pair(int i, int half, int lane, const float (&first)[4],
                                   const float (&second)[4], Write write) {
    const int c = lane % 4;
    const float a = first[2 * half], b = first[2 * half + 1];
    const float d = second[2 * half], e = second[2 * half + 1];
    if constexpr (!kCodes) {
      write(16 * i + 2 * c, a, b);
      write(16 * i + 8 + 2 * c, d, e);
    } else {
      write(16 * i + 4 * c, a, d);
      write(16 * i + 4 * c + 2, b, e);
    }
  }

 private:
  struct Words {
    std::uint32_t first, second;
  };
  // Four neighbouring codes as two pairs.
  static __device__ Words words(std::uint32_t codes) {
    return {bf16_of_codes(__byte_perm(codes, 0, 0x4140)), bf16_of_codes(__byte_perm(codes, 0, 0x4342))};
  }
};

}  // namespace slidesparse::cuda
