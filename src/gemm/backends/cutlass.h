#pragma once

#include <string>
#include <vector>

#include "gemm/backend.h"

namespace slidesparse {

// Dense FP8 and INT8 on Hopper through CUTLASS, scales and bias inside the kernel: one rounding, nothing but
// BF16 leaves it. FP8 sums stay in the tensor cores ("fast-accum"), about 14 bits within a chain of
// instructions. Packed weights are expanded once, when they are prepared. Kernels differ in tile and schedule
// (cutlass/variant.h); a config may add "swizzle=1|2|4|8" and, to stream-k kernels, "splits=COUNT" (0: tiles
// whole, 1: as stream-K cuts them).
class CutlassBackend : public Backend {
 public:
  std::string_view name() const override { return "cutlass"; }
  Feasibility available() const override;
  std::string version() const override;
  DeviceKind device() const override { return DeviceKind::kCuda; }
  std::vector<KernelDesc> kernels() const override;
  std::vector<KernelDesc> candidates(const GemmDesc& desc) const override;
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
