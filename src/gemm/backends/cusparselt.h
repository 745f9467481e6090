#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "gemm/backend.h"

namespace slidesparse {

// The published method: 2:4 weights, or (2N-2):2N ones slid to 2:4, through cuSPARSELt, opened at run time.
// Weights are slid on the card and compressed once. The library's sums go to a workspace of at most 256 MiB,
// a tile of tokens at a time, and a kernel of ours applies the token scales and the bias (the library knows
// one vector of scales, that of the channels: the kernels called "alpha" let it apply those).
class CusparseLtBackend : public Backend {
 public:
  std::string_view name() const override { return "cusparselt"; }
  Feasibility available() const override;
  std::string version() const override;
  DeviceKind device() const override { return DeviceKind::kCuda; }
  std::vector<KernelDesc> kernels() const override;
  // Feasible kernels with every algorithm id that the library makes a plan for, and with a split K where it
  // does; the default first. Some ids may fail, or bring the process down, when they run.
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

// KernelDesc::config: "alg=12", or "alg=12 splitk=2 mode=2" (modes as cusparseLtSplitKMode_t numbers them).
struct CusparseLtConfig {
  int alg = 0;
  int splitk = 1;
  int mode = 0;

  std::string to_string() const;
  // Empty text: nothing. Throws kInput for anything that to_string() does not write.
  static std::optional<CusparseLtConfig> parse(std::string_view text);
  bool operator==(const CusparseLtConfig&) const = default;
};

// feasible() for a card of this compute capability (90: Hopper), whether or not it and the library are here.
Feasibility cusparselt_supports(const GemmDesc& desc, const KernelDesc& kernel, int compute_capability);

// Why the library at `option` (empty: wherever it is found) cannot be used; empty when it can.
std::string cusparselt_problem(std::string_view option);

}  // namespace slidesparse
