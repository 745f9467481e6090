#include "kernels/cuda/attention_prefill.cuh"

namespace slidesparse::cuda {

cudaError_t launch_prefill_128(const AttentionPlan& plan, cudaStream_t stream) {
  return launch_prefill<128>(plan, stream);
}

}  // namespace slidesparse::cuda
