#define SLIDESPARSE_TARGET __attribute__((target("avx2,bmi2")))
#define SLIDESPARSE_ROWS kAvx2Rows
#include "kernels/cpu/ops_rows_body.h"
