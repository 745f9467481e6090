#include "kernels/cuda/quantize_rows.cuh"

namespace slidesparse::cuda {

cudaError_t launch_plain(const QuantizePlan& plan, const QuantizeShape& shape, cudaStream_t stream) {
  return launch_producer<Producer::kNone>(plan, shape, stream);
}

}  // namespace slidesparse::cuda
