#include "kernels/cuda/attention_prefill.cuh"

namespace slidesparse::cuda {

cudaError_t launch_prefill_64(const AttentionPlan& plan, cudaStream_t stream) {
  return launch_prefill<64>(plan, stream);
}

}  // namespace slidesparse::cuda
