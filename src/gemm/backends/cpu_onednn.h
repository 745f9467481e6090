#pragma once

#include "core/device.h"
#include "gemm/backends/common.h"

namespace slidesparse {

// Dense matmul through oneDNN: INT8 to 32-bit sums that are scaled afterwards, BF16 with the bias inside.
// Weights are kept in oneDNN's own blocked layout, one copy for every M. Primitives are cached by shape; all
// functions are thread-safe. run makes oneDNN's small memory handles; all buffers come from the workspace.

// The reason when oneDNN lacks the instructions that make it exact (INT8: VNNI) or fast (BF16).
Feasibility onednn_feasible(const GemmDesc& desc);
std::int64_t onednn_weight_bytes(const GemmDesc& desc);
std::int64_t onednn_workspace_bytes(const GemmDesc& desc);
std::unique_ptr<PreparedWeights> onednn_prepare(const WeightSource& source, const GemmDesc& desc);
void onednn_run(const GemmDesc& desc, const PreparedWeights& weights, const GemmArgs& args,
                std::byte* workspace);
// oneDNN's name of its implementation: "brg:avx512_core_vnni", ...
std::string onednn_implementation(const GemmDesc& desc);

}  // namespace slidesparse
