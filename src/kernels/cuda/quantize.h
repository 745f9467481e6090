#pragma once

#include <cstdint>

#include "slidesparse/core/dtype.h"

// What runs before a matrix product: BF16 activations become 8-bit ones with one scale a token, and, where
// the backend wants it, lifted or gathered, in one pass. Launches return a cudaError_t.
namespace slidesparse::cuda {

enum class Producer : std::uint8_t {
  kNone,     // x as it is
  kRmsNorm,  // residual += update (when given); x = rms_norm(residual) * weight
  kSiluMul,  // x = silu(gate) * up, [m, 2k] with the gate first
};

// All device pointers. Bit-equal to the CPU oracle (quant/, ops/) for values and scales; docs/format.md,
// "Numbers". norm_weight and perm may be read while the kernel in front still runs: it must not write them.
struct QuantizeArgs {
  Producer producer = Producer::kNone;
  DType out = DType::kI8;  // I8 or F8_E4M3; BF16: no quantisation, only the producer, lift and gather
  std::int64_t m = 0;
  std::int64_t k = 0;
  const void* x = nullptr;  // BF16: kNone [m, k], kRmsNorm the residual [m, k], kSiluMul [m, 2k]
  std::int64_t ldx = 0;     // its row stride in elements

  // kRmsNorm only. The sum is rounded to BF16 once and written back to the residual.
  void* residual_out = nullptr;       // BF16 [m, k], may be x; null: not written
  const void* update = nullptr;       // BF16 [m, k], row stride k; null: nothing to add
  const void* norm_weight = nullptr;  // BF16 [k]
  float eps = 0;
  void* normed_out = nullptr;  // BF16 [m, k], row stride k; null: not written

  int lift = 0;  // N of the lift (format/lift); 0: none
  const std::int32_t* perm =
      nullptr;  // [k]: out lane i is x lane perm[i]; null: none. Not together with lift

  void* q = nullptr;          // [m, k_out], k_out = lifted k
  std::int64_t ldq = 0;       // row stride in elements, >= k_out; lanes behind k_out are written as zero
  float* scale = nullptr;     // [m]; null for BF16
  std::int64_t m_padded = 0;  // rows m .. m_padded of q and scale are written as zero; 0: none
};

int quantize(const QuantizeArgs& args, void* stream);

}  // namespace slidesparse::cuda
