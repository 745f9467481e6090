#include "kernels/cpu/gemm_finish_body.h"

namespace slidesparse {

void avx512_gemm_finish(const GemmFinish& finish, const std::int32_t* sums, std::int64_t count, void* out) {
  finish_all(finish, sums, count, out);
}

void avx512_gemm_finish(const GemmFinish& finish, const float* sums, std::int64_t count, void* out) {
  finish_all(finish, sums, count, out);
}

}  // namespace slidesparse
