#pragma once

#include "gemm/backend.h"

namespace slidesparse {

// Plain loops, the definition that every other kernel is compared with: integers for INT8, double for FP8 and
// BF16, channels in ascending order, then float(sum) * x_scale * w_scale + bias in FP32 and one rounding.
// Shares no code with the fast kernels: it reads the stored layouts for itself.
class ReferenceBackend : public Backend {
 public:
  std::string_view name() const override { return "reference"; }
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
