#include <immintrin.h>

#define SLIDESPARSE_TARGET __attribute__((target("avx2,fma,bmi2")))
#define SLIDESPARSE_ATTENTION kAvx2Attention
#define SLIDESPARSE_MULTIPLY_ADD(sums, factor, values) \
  sums = _mm256_fmadd_ps(_mm256_set1_ps(factor), values, sums)
#include "kernels/cpu/ops_attention_body.h"
