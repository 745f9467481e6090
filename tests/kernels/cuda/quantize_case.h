#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/cuda/stream.h"
#include "kernels/cuda/quantize.h"

namespace slidesparse {

// One call of quantize() with its inputs on the host.
struct QuantizeCase {
  cuda::Producer producer = cuda::Producer::kNone;
  DType out = DType::kI8;
  std::int64_t m = 0;
  std::int64_t k = 0;
  std::int64_t ldx = 0;
  std::int64_t ldq = 0;
  std::int64_t m_padded = 0;
  int lift = 0;
  float eps = 1e-5f;
  bool in_place = true;       // the norm's residual_out is x
  bool writes_normed = true;  // normed_out is given
  std::int64_t offset = 0;    // of all device pointers, in bytes: an even number
  std::vector<std::uint16_t> x;
  std::vector<std::uint16_t> update;  // empty: none
  std::vector<std::uint16_t> weight;
  std::vector<std::int32_t> perm;  // empty: none

  std::int64_t k_out() const;
  std::int64_t rows() const { return m > m_padded ? m : m_padded; }
  int element_bytes() const { return out == DType::kBF16 ? 2 : 1; }
  std::string describe() const;
};

struct QuantizeResult {
  std::vector<std::uint8_t> q;  // [rows, ldq] elements
  std::vector<float> scale;     // [rows]; empty for BF16
  std::vector<std::uint16_t> residual;
  std::vector<std::uint16_t> normed;
};

// Random inputs for everything that is still empty: about standard normal.
void fill_inputs(QuantizeCase& c, std::uint64_t seed);

// What the CPU's own functions make of it: ops' row kernels, quantise_tokens(), lift_rows().
QuantizeResult expected_result(const QuantizeCase& c);

// Runs it twice on the card (outputs poisoned with 0xff) and compares both with expected_result(), bit by
// bit, and the memory behind the outputs with what was there.
void check_case(const QuantizeCase& c, const CudaStream& stream);

}  // namespace slidesparse
