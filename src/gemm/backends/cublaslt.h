#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "gemm/backend.h"

namespace slidesparse {

// Dense products through cuBLASLt, opened at run time. Weights are [N, K] padded to multiples of 16, packed
// ones expanded on the card. Where the library can apply scales and bias itself it writes the output; where
// it cannot, its sums go to a workspace of at most 256 MiB, a tile of tokens at a time, and a kernel of ours
// finishes them.
class CublasLtBackend : public Backend {
 public:
  std::string_view name() const override { return "cublaslt"; }
  Feasibility available() const override;
  std::string version() const override;
  DeviceKind device() const override { return DeviceKind::kCuda; }
  std::vector<KernelDesc> kernels() const override;
  // Feasible kernels with what the library's heuristics offer, at most 32 settings each, first the one that
  // an empty config stands for.
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

// Everything that makes a cuBLASLt algorithm what it is, as KernelDesc::config writes it:
// "algo=66 tile=600 stages=35 splitk=1 reduction=0 swizzle=0 custom=0 inner=0 cluster=2", and "raw=<128 hex
// digits>" behind it where these fields alone do not bring the library's own choice back.
struct CublasLtConfig {
  int algo = 0;
  unsigned tile = 0;
  unsigned stages = 0;
  int splitk = 1;
  unsigned reduction = 0;
  unsigned swizzle = 0;
  unsigned custom = 0;
  unsigned inner = 0;
  unsigned cluster = 0;
  std::string raw;  // of the algorithm structure; empty: the fields say it all

  std::string to_string() const;
  // Empty text: nothing. Throws kInput for anything that to_string() does not write.
  static std::optional<CublasLtConfig> parse(std::string_view text);
  bool operator==(const CublasLtConfig&) const = default;
};

// feasible() for a card of this compute capability (90: Hopper), whether or not it and the library are here.
Feasibility cublaslt_supports(const GemmDesc& desc, const KernelDesc& kernel, int compute_capability);

// Why the library at `option` (empty: wherever it is found) cannot be used; empty when it can.
std::string cublaslt_problem(std::string_view option);

}  // namespace slidesparse
