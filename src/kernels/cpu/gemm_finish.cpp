#include "kernels/cpu/gemm_finish_body.h"

namespace slidesparse {
namespace {

template <typename Sum>
void dispatch(Isa isa, const GemmFinish& finish, const Sum* sums, std::int64_t count, void* out) {
  switch (isa) {
    case Isa::kAvx512:
      avx512_gemm_finish(finish, sums, count, out);
      break;
    case Isa::kAvx2:
      avx2_gemm_finish(finish, sums, count, out);
      break;
    case Isa::kPortable:
      finish_all(finish, sums, count, out);
      break;
  }
}

}  // namespace

void gemm_finish(Isa isa, const GemmFinish& finish, const std::int32_t* sums, std::int64_t count, void* out) {
  dispatch(isa, finish, sums, count, out);
}

void gemm_finish(Isa isa, const GemmFinish& finish, const float* sums, std::int64_t count, void* out) {
  dispatch(isa, finish, sums, count, out);
}

}  // namespace slidesparse
