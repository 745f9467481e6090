#pragma once

#include "gemm/backend.h"

namespace slidesparse {

// The processor: our own kernels on dense, packed and split rows, read in place, and oneDNN on dense weights.
// INT8 results are exact 32-bit integers before scaling, so every kernel gives the same bits. FP8 and BF16
// sums of our own kernels have one order whatever M and the number of threads are; oneDNN's order is its own.
class CpuBackend : public Backend {
 public:
  std::string_view name() const override { return "cpu"; }
  Feasibility available() const override { return {}; }
  std::vector<KernelDesc> kernels() const override;
  Feasibility feasible(const GemmDesc& desc, const KernelDesc& kernel) const override;
  Footprint footprint(const GemmDesc& desc, const KernelDesc& kernel) const override;
  std::string weight_form(const GemmDesc& desc, const KernelDesc& kernel) const override;
  std::unique_ptr<PreparedWeights> prepare_weights(const WeightSource& source, const GemmDesc& desc,
                                                   const KernelDesc& kernel) const override;
  GemmPlan plan(const GemmDesc& desc, const KernelDesc& kernel) const override;
  void run(const GemmPlan& plan, const PreparedWeights& weights, const GemmArgs& args,
           const Context& context) const override;
};

}  // namespace slidesparse
