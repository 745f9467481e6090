#include "kernels/cuda/quantize_rows.cuh"

namespace slidesparse::cuda {

cudaError_t launch_silu(const QuantizePlan& plan, const QuantizeShape& shape, cudaStream_t stream) {
  return launch_producer<Producer::kSiluMul>(plan, shape, stream);
}

}  // namespace slidesparse::cuda
