#pragma once

// Loops that the compiler vectorises by itself, once for each instruction set: an always-inlined body and one
// function a target, chosen by active_isa(). FP contraction is off (cmake/targets.cmake), so all give the
// same bits as long as the body fixes the order of its sums.
#define SLIDESPARSE_INLINE inline __attribute__((always_inline))
#define SLIDESPARSE_AVX2 __attribute__((target("avx2,fma,bmi2,f16c")))
#define SLIDESPARSE_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma,bmi2,prefer-vector-width=512")))
