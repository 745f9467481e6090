#define SLIDESPARSE_TARGET __attribute__((target("avx2,bmi2")))
#define SLIDESPARSE_ATTENTION kAvx2Attention
#include "kernels/cpu/ops_attention_body.h"
