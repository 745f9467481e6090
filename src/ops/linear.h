#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/tensor.h"
#include "gemm/backend.h"

namespace slidesparse {

// How the kernels of a model's linears are chosen: the arguments of choose().
struct LinearOptions {
  std::vector<std::string> backends;              // empty: automatic
  std::shared_ptr<const TuningCache> measured{};  // null: by rule
};

// Bytes of values, codes, scales, bias and permutation as they are stored.
std::int64_t stored_bytes(const WeightSource& source);

// "dense", "6:8", or "6:8 split".
std::string pattern_words(const WeightSource& source);

// Activations ready for the linears that read them: quantised once for a whole fused group.
struct QuantisedInput {
  TensorView codes;               // [m, k] I8 or F8_E4M3, or the BF16 activations themselves
  const float* scales = nullptr;  // [m]; null for BF16
};

// One linear layer: weights from a directory (views), a kernel chosen per M and remembered.
class Linear {
 public:
  Linear(std::string name, const WeightSource& source, LinearOptions options);
  ~Linear();
  Linear(Linear&&) noexcept;
  Linear& operator=(Linear&&) noexcept;

  const std::string& name() const;
  std::int64_t n() const;
  std::int64_t k() const;
  DType dtype() const;  // what the input has to be quantised to
  Pattern pattern() const;
  std::string pattern_words() const;
  // Bytes of values, codes, scales and bias as they are stored.
  std::int64_t stored_bytes() const;
  // Scratch that run() takes from the arena for m tokens.
  std::int64_t workspace_bytes(std::int64_t m, DType out = DType::kBF16) const;
  // out [m, n] (BF16 or F32, row stride out.stride(0)) = input x W^T, scaled, plus bias.
  void run(const Context& context, const QuantisedInput& input, const TensorView& out) const;
  // The kernel that m tokens run on, and bytes of weights that one run reads.
  Choice choice(std::int64_t m, DType out = DType::kBF16) const;
  std::int64_t weight_bytes_read(std::int64_t m, DType out = DType::kBF16) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Quantises x [m, k] BF16 per token to `dtype` (BF16: a view of x) in arena memory. Bit-equal to
// quantise_tokens().
QuantisedInput quantise_input(const Context& context, const TensorView& x, DType dtype);

}  // namespace slidesparse
