#define SLIDESPARSE_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")))
#define SLIDESPARSE_ROWS kAvx512Rows
#include "kernels/cpu/ops_rows_body.h"
