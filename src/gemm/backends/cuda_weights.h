#pragma once

#include <cstdint>
#include <functional>

#include "core/cuda/memory.h"
#include "gemm/backend.h"

namespace slidesparse {

// What every CUDA backend asks of a problem besides what check_problem() does: a card, the card's device,
// BF16 or FP32 output.
Feasibility check_cuda_problem(const GemmDesc& desc);

// Throws kInput when a pointer of a run is missing or not on a boundary of so many bytes.
void check_cuda_args(const GemmDesc& desc, const GemmArgs& args, std::int64_t x_alignment,
                     std::int64_t out_alignment);

// The matrix that a library multiplies: the stored one with its zeros, or the slid one with its zeros,
// lifted_k(k) wide.
enum class CudaForm { kDense, kSlid };

// A weight matrix on the card, with scales and bias in FP32. Dense ones of equal size are the same whatever
// backend made them, and weight_form() says so: "dense 4608x3584", rows and columns with padding.
// Whether there is a card for kernels of compute capability 9.0.
Feasibility hopper_available();
// Multiprocessors of the problem's card, an H200's for estimates without one.
int multiprocessors(const GemmDesc& desc);

struct CudaWeights : PreparedWeights {
  std::int64_t allocated_bytes() const override {
    return values.size() + scales.size() + bias.size() + bias_bf16.size();
  }

  DeviceBuffer
      values;  // [n_padded, ld] elements of the problem's w dtype; zero outside [n, width of the form]
  DeviceBuffer scales;     // FP32 [n_padded], zero behind n; empty for BF16 weights
  DeviceBuffer bias;       // FP32 [n_padded], zero behind n; empty without bias
  DeviceBuffer bias_bf16;  // [n_padded], where it is stored so and the form is dense: libraries take no other
  std::int64_t n_padded = 0;
  std::int64_t ld = 0;
  const float* scale_data() const { return scales.size() == 0 ? nullptr : scales.as<float>(); }
  const float* bias_data() const { return bias.size() == 0 ? nullptr : bias.as<float>(); }
};

// Copies `source` (host memory) to the card through pinned staging of fixed size and brings it into `form`
// there: dense and packed sources; kSlid from packed only. Refuses a dense source with a pattern.
// Synchronises.
CudaWeights upload_weights(const WeightSource& source, const GemmDesc& desc, CudaForm form, std::int64_t ld,
                           std::int64_t n_padded);

// Stored rows on their way through the card: those of one chunk.
struct StoredChunk {
  const std::byte* values = nullptr;    // as they are stored, on the card
  const std::uint8_t* codes = nullptr;  // the same; null for dense weights
  std::int64_t first = 0;               // number of the first row
  std::int64_t rows = 0;                // a multiple of `multiple` but in the last chunk
  bool last = false;
  void* stream = nullptr;  // on which to launch what reads them
};
// Brings `source` to the card a chunk of rows at a time and calls `use` for each; codes are checked first, so
// that kernels need not. Synchronises.
void upload_rows(const WeightSource& source, const GemmDesc& desc, std::int64_t multiple,
                 const std::function<void(const StoredChunk&)>& use);

// Scales and bias in FP32, [n_padded], zero behind n; empty where there are none. Synchronises.
struct CudaVectors {
  DeviceBuffer scales, bias;
};
CudaVectors upload_vectors(const WeightSource& source, const GemmDesc& desc, std::int64_t n_padded);

// While somebody holds one of these, uploads share one set of staging memory (two chunks, pinned and on the
// card) instead of making their own, which takes longer than a small layer. Uploads take turns.
std::shared_ptr<const void> hold_weight_staging();

// What upload_weights() allocates.
std::int64_t cuda_weight_bytes(const GemmDesc& desc, CudaForm form, std::int64_t ld, std::int64_t n_padded);

}  // namespace slidesparse
