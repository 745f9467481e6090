#pragma once

#include <cstdint>

#include "slidesparse/core/dtype.h"

// wgmma with the A operand, weights, in registers: D[64, N] += A[64, K] B[K, N], dense (K: 32 bytes) or 2:4
// (64 bytes). B, activations, is in shared memory, K contiguous. What a thread holds of A and of the
// metadata: sm90_fragments.h; of D (w = t / 32, g = t % 32 / 4, q = t % 4):
//
//     d[4j], d[4j+1]     row 16w+g,   columns 8j+2q, 8j+2q+1
//     d[4j+2], d[4j+3]   row 16w+g+8, the same columns
//
// Instructions are asynchronous: fence() before them, commit() behind, wait<n>() until at most n groups are
// in flight; until then nobody may touch their registers.
namespace slidesparse::sm90 {

template <DType Type, int N>
struct Wgmma;

// Registers that are read or written by number, in eights; the operands behind them: A, descriptor of B,
// whether D is added to (0: written), metadata.
#define SLIDESPARSE_R0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define SLIDESPARSE_R1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define SLIDESPARSE_R2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define SLIDESPARSE_R3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define SLIDESPARSE_R4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define SLIDESPARSE_R5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define SLIDESPARSE_R6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define SLIDESPARSE_R7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define SLIDESPARSE_R8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define SLIDESPARSE_R9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define SLIDESPARSE_R10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define SLIDESPARSE_R11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define SLIDESPARSE_R12 "%96, %97, %98, %99, %100, %101, %102, %103"
#define SLIDESPARSE_R13 "%104, %105, %106, %107, %108, %109, %110, %111"
#define SLIDESPARSE_R14 "%112, %113, %114, %115, %116, %117, %118, %119"
#define SLIDESPARSE_R15 "%120, %121, %122, %123, %124, %125, %126, %127"
#define SLIDESPARSE_D(C, i) \
  C(d[i]), C(d[i + 1]), C(d[i + 2]), C(d[i + 3]), C(d[i + 4]), C(d[i + 5]), C(d[i + 6]), C(d[i + 7])

#define SLIDESPARSE_WGMMA(TYPE, SUM, C, DENSE_K, SPARSE_K, TEXT, SCALES, N, LIST, OUT, A, B, ADD, META)      \
  template <>                                                                                                \
  struct Wgmma<TYPE, N> {                                                                                    \
    static __device__ __forceinline__ void dense(SUM* d, const std::uint32_t* a, std::uint64_t b, int add) { \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " ADD                                                   \
                   ", 0;\n"                                                                                  \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k" DENSE_K "." TEXT " {" LIST "}, " A ", " B      \
                   ", p" SCALES ";\n}"                                                                       \
                   : OUT                                                                                     \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                          \
    }                                                                                                        \
    static __device__ __forceinline__ void sparse(SUM* d, const std::uint32_t* a, std::uint32_t metadata,    \
                                                  std::uint64_t b, int add) {                                \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " ADD                                                   \
                   ", 0;\n"                                                                                  \
                   "wgmma.mma_async.sp.sync.aligned.m64n" #N "k" SPARSE_K "." TEXT " {" LIST "}, " A ", " B  \
                   ", " META ", 0, p" SCALES ";\n}"                                                          \
                   : OUT                                                                                     \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "r"(metadata));           \
    }                                                                                                        \
  };

// FP8 sums stay in FP32 accumulators of the tensor cores ("fast accumulation"); INT8 sums are exact. The
// third number behind BF16's: B is not transposed.
#define SLIDESPARSE_WGMMAS(N, LIST, OUT, A, B, ADD, META)                                                    \
  SLIDESPARSE_WGMMA(DType::kF8E4M3, float, "+f", "32", "64", "f32.e4m3.e4m3", ", 1, 1", N, LIST, OUT("+f"),  \
                    A, B, ADD, META)                                                                         \
  SLIDESPARSE_WGMMA(DType::kI8, std::int32_t, "+r", "32", "64", "s32.s8.s8", "", N, LIST, OUT("+r"), A, B,   \
                    ADD, META)                                                                               \
  SLIDESPARSE_WGMMA(DType::kBF16, float, "+f", "16", "32", "f32.bf16.bf16", ", 1, 1, 0", N, LIST, OUT("+f"), \
                    A, B, ADD, META)

#define SLIDESPARSE_LIST8 SLIDESPARSE_R0
#define SLIDESPARSE_OUT8(C) SLIDESPARSE_D(C, 0)
#define SLIDESPARSE_LIST16 SLIDESPARSE_R0 ", " SLIDESPARSE_R1
#define SLIDESPARSE_OUT16(C) SLIDESPARSE_D(C, 0), SLIDESPARSE_D(C, 8)
#define SLIDESPARSE_LIST32 SLIDESPARSE_R0 ", " SLIDESPARSE_R1 ", " SLIDESPARSE_R2 ", " SLIDESPARSE_R3
#define SLIDESPARSE_OUT32(C) \
  SLIDESPARSE_D(C, 0), SLIDESPARSE_D(C, 8), SLIDESPARSE_D(C, 16), SLIDESPARSE_D(C, 24)
#define SLIDESPARSE_LIST48                                                                       \
  SLIDESPARSE_R0 ", " SLIDESPARSE_R1 ", " SLIDESPARSE_R2 ", " SLIDESPARSE_R3 ", " SLIDESPARSE_R4 \
                 ", " SLIDESPARSE_R5
#define SLIDESPARSE_OUT48(C)                                                            \
  SLIDESPARSE_D(C, 0), SLIDESPARSE_D(C, 8), SLIDESPARSE_D(C, 16), SLIDESPARSE_D(C, 24), \
      SLIDESPARSE_D(C, 32), SLIDESPARSE_D(C, 40)
#define SLIDESPARSE_LIST64                                                                       \
  SLIDESPARSE_R0 ", " SLIDESPARSE_R1 ", " SLIDESPARSE_R2 ", " SLIDESPARSE_R3 ", " SLIDESPARSE_R4 \
                 ", " SLIDESPARSE_R5 ", " SLIDESPARSE_R6 ", " SLIDESPARSE_R7
#define SLIDESPARSE_OUT64(C)                                                            \
  SLIDESPARSE_D(C, 0), SLIDESPARSE_D(C, 8), SLIDESPARSE_D(C, 16), SLIDESPARSE_D(C, 24), \
      SLIDESPARSE_D(C, 32), SLIDESPARSE_D(C, 40), SLIDESPARSE_D(C, 48), SLIDESPARSE_D(C, 56)
#define SLIDESPARSE_LIST96                                                                       \
  SLIDESPARSE_R0 ", " SLIDESPARSE_R1 ", " SLIDESPARSE_R2 ", " SLIDESPARSE_R3 ", " SLIDESPARSE_R4 \
                 ", " SLIDESPARSE_R5 ", " SLIDESPARSE_R6 ", " SLIDESPARSE_R7 ", " SLIDESPARSE_R8 \
                 ", " SLIDESPARSE_R9 ", " SLIDESPARSE_R10 ", " SLIDESPARSE_R11
#define SLIDESPARSE_OUT96(C)                                                                  \
  SLIDESPARSE_D(C, 0), SLIDESPARSE_D(C, 8), SLIDESPARSE_D(C, 16), SLIDESPARSE_D(C, 24),       \
      SLIDESPARSE_D(C, 32), SLIDESPARSE_D(C, 40), SLIDESPARSE_D(C, 48), SLIDESPARSE_D(C, 56), \
      SLIDESPARSE_D(C, 64), SLIDESPARSE_D(C, 72), SLIDESPARSE_D(C, 80), SLIDESPARSE_D(C, 88)
#define SLIDESPARSE_LIST128                                                                         \
  SLIDESPARSE_R0 ", " SLIDESPARSE_R1 ", " SLIDESPARSE_R2 ", " SLIDESPARSE_R3 ", " SLIDESPARSE_R4    \
                 ", " SLIDESPARSE_R5 ", " SLIDESPARSE_R6 ", " SLIDESPARSE_R7 ", " SLIDESPARSE_R8    \
                 ", " SLIDESPARSE_R9 ", " SLIDESPARSE_R10 ", " SLIDESPARSE_R11 ", " SLIDESPARSE_R12 \
                 ", " SLIDESPARSE_R13 ", " SLIDESPARSE_R14 ", " SLIDESPARSE_R15
#define SLIDESPARSE_OUT128(C)                                                                 \
  SLIDESPARSE_D(C, 0), SLIDESPARSE_D(C, 8), SLIDESPARSE_D(C, 16), SLIDESPARSE_D(C, 24),       \
      SLIDESPARSE_D(C, 32), SLIDESPARSE_D(C, 40), SLIDESPARSE_D(C, 48), SLIDESPARSE_D(C, 56), \
      SLIDESPARSE_D(C, 64), SLIDESPARSE_D(C, 72), SLIDESPARSE_D(C, 80), SLIDESPARSE_D(C, 88), \
      SLIDESPARSE_D(C, 96), SLIDESPARSE_D(C, 104), SLIDESPARSE_D(C, 112), SLIDESPARSE_D(C, 120)
SLIDESPARSE_WGMMAS(16, SLIDESPARSE_LIST8, SLIDESPARSE_OUT8, "{%8, %9, %10, %11}", "%12", "%13", "%14")
SLIDESPARSE_WGMMAS(32, SLIDESPARSE_LIST16, SLIDESPARSE_OUT16, "{%16, %17, %18, %19}", "%20", "%21", "%22")
SLIDESPARSE_WGMMAS(64, SLIDESPARSE_LIST32, SLIDESPARSE_OUT32, "{%32, %33, %34, %35}", "%36", "%37", "%38")
SLIDESPARSE_WGMMAS(96, SLIDESPARSE_LIST48, SLIDESPARSE_OUT48, "{%48, %49, %50, %51}", "%52", "%53", "%54")
SLIDESPARSE_WGMMAS(128, SLIDESPARSE_LIST64, SLIDESPARSE_OUT64, "{%64, %65, %66, %67}", "%68", "%69", "%70")
SLIDESPARSE_WGMMAS(192, SLIDESPARSE_LIST96, SLIDESPARSE_OUT96, "{%96, %97, %98, %99}", "%100", "%101", "%102")
SLIDESPARSE_WGMMAS(256, SLIDESPARSE_LIST128, SLIDESPARSE_OUT128, "{%128, %129, %130, %131}", "%132", "%133",
                   "%134")

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kInFlight>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kInFlight) : "memory");
}

// The compiler does not know that instructions in flight still write these: behind the last wait, nothing
// that reads them may move before it.
template <int kCount>
__device__ __forceinline__ void wgmma_results(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int kCount>
__device__ __forceinline__ void wgmma_results(std::int32_t (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

}  // namespace slidesparse::sm90
