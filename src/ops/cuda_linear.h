#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/device.h"
#include "gemm/backend.h"
#include "gemm/weight_forms.h"
#include "kernels/cuda/quantize.h"
#include "ops/linear.h"

namespace slidesparse {

// How the linears of a model on a card are chosen and which forms of their weights stay there.
struct CudaLinearOptions {
  LinearOptions choice;
  WeightPolicy weights = WeightPolicy::kFastest;
  std::vector<std::int64_t> ms;  // tokens of the steps to come, at least one: forms are decided by these
};

// Everything that fused linears of one shape share, whatever layer they are in: kernels and plans for each
// number of tokens, forms of weights. Plans are made at the first call for an M and kept.
class CudaLinearKernels {
 public:
  // `desc` without its M; its device is the card. Throws kUnsupported where nothing can run it.
  CudaLinearKernels(const GemmDesc& desc, const CudaLinearOptions& options);

  struct Bound {
    Choice choice;
    GemmPlan plan;
    Footprint footprint;
    std::string form;
  };
  std::shared_ptr<const Bound> at(std::int64_t m) const;

  const GemmDesc& desc() const { return desc_; }
  const std::vector<KeptForm>& forms() const { return forms_; }
  // Scratch of run() for m tokens: their quantised form and what the kernel takes.
  std::int64_t workspace_bytes(std::int64_t m) const;
  std::int64_t input_bytes(std::int64_t m) const;  // of that, the quantised form
  // Weights in every kept form. Synchronises.
  std::map<std::string, std::unique_ptr<PreparedWeights>> prepare(const WeightSource& source) const;

 private:
  GemmDesc desc_;
  CudaLinearOptions options_;
  std::vector<KeptForm> forms_;
  std::vector<std::string> form_names_;
  mutable std::mutex mutex_;
  mutable std::map<std::int64_t, std::shared_ptr<const Bound>> bound_;
};

// What a linear reads: how its input comes about (kernels/cuda/quantize.h), everything but where it goes.
struct CudaLinearInput {
  cuda::Producer producer = cuda::Producer::kNone;
  const void* x = nullptr;  // BF16, as QuantizeArgs::x
  std::int64_t ldx = 0;
  // kRmsNorm: the residual [m, k] takes `update` (null: nothing) and is written back.
  void* residual_out = nullptr;
  const void* update = nullptr;
  const void* norm_weight = nullptr;
  float eps = 0;
  // The channels of x stand already in CudaLinear::input_order().
  bool ordered = false;
};

// One fused linear on a card: quantises (and lifts) its input and multiplies.
class CudaLinear {
 public:
  CudaLinear(std::string name, std::shared_ptr<const CudaLinearKernels> kernels, const WeightSource& source);

  const std::string& name() const { return name_; }
  const CudaLinearKernels& kernels() const { return *kernels_; }
  std::int64_t allocated_bytes() const;

  // The weights as rows of their type on the card, where a dense form of them is kept: what a tied embedding
  // is looked up in.
  struct Rows {
    const void* data = nullptr;  // [n, ld], null: no such form
    std::int64_t ld = 0;
  };
  Rows dense_rows() const;

  // The order in which every kernel of this linear wants its input's channels, where they agree on one (split
  // weights): who writes x in it spares the gathering. Empty otherwise.
  std::span<const std::int32_t> input_order() const { return input_order_; }

  // out [m, n] of desc().out, contiguous rows. Neither allocates nor synchronises once its M has been run
  // before; takes workspace_bytes(m) from the arena.
  void run(const Context& context, const CudaLinearInput& input, std::int64_t m, void* out) const;

 private:
  std::string name_;
  std::shared_ptr<const CudaLinearKernels> kernels_;
  std::map<std::string, std::unique_ptr<PreparedWeights>> weights_;  // by form
  std::span<const std::int32_t> input_order_;                        // of weights_
};

}  // namespace slidesparse
