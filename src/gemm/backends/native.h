#pragma once

#include <string>
#include <vector>

#include "gemm/backend.h"

namespace slidesparse {

// Our own kernels for Hopper, FP8, INT8 and BF16 (src/kernels/sm90): weights in register-fragment order, 2:4
// steps of K on the sparse tensor cores and dense ones beside them. Split weights run as they are split;
// packed 2:4 ones, and packed ones slid to 2:4, all sparse; dense ones all dense. Scales and bias inside the
// kernel, one rounding. FP8 sums stay in the tensor cores ("fast-accum"). One copy of the weights serves
// every M. A config may be "panel=TILES" (sm90_tiles.cuh), and with split-k kernels "splits=PARTS"
// (sm90_split_k.cuh).
class NativeBackend : public Backend {
 public:
  std::string_view name() const override { return "native"; }
  Feasibility available() const override;
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

// feasible() for a card of this compute capability (90: Hopper), whether or not it is here.
Feasibility native_supports(const GemmDesc& desc, const KernelDesc& kernel, int compute_capability);

}  // namespace slidesparse
