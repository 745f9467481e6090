#define SLIDESPARSE_TARGET
#define SLIDESPARSE_ATTENTION kPortableAttention
#define SLIDESPARSE_MULTIPLY_ADD(sums, factor, values) sums += (factor) * (values)
#include "kernels/cpu/ops_attention_body.h"

namespace slidesparse::kernels {

const AttentionKernels& attention_kernels(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kAvx512Attention;
    case Isa::kAvx2:
      return kAvx2Attention;
    case Isa::kPortable:
      break;
  }
  return kPortableAttention;
}

}  // namespace slidesparse::kernels
