#pragma once

#include "core/device.h"
#include "gemm/backends/common.h"
#include "gemm/backends/cpu_kernels.h"
#include "kernels/cpu/gemm_kernels.h"

namespace slidesparse {

// How our own kernels cut a problem up. All sizes in bytes unless said.
struct RowsPlan {
  GemmRows rows;  // geometry; pointers are filled in by run
  const GemmKernels* kernels = nullptr;
  bool stream = false;
  std::int64_t blocks = 0;         // of one row
  std::int64_t panel_element = 1;  // bytes of a panel element
  std::int64_t panel_rows = 0;     // rows expanded (or streamed) at a time
  std::int64_t panel_blocks = 0;   // blocks of a row that a panel holds
  std::int64_t pass_tokens = 0;    // tokens that an expanded panel is multiplied with
  std::int64_t x_bytes = 0;        // all tokens in blocks, and their offsets behind
  std::int64_t task_bytes = 0;     // panel and sums of one thread

  // Panel elements from token to token and from row to row of a panel: an odd number of blocks, so that what
  // is used together does not fall on the same sets of a cache.
  std::int64_t x_stride() const { return (blocks | 1) * kBlockSlots; }
  std::int64_t panel_stride() const { return (panel_blocks | 1) * kBlockSlots; }
  // Tokens whose panel elements lie together.
  std::int64_t token_group() const { return kernels->arrange != nullptr ? kTokenGroup : 1; }
  std::int64_t workspace_bytes(std::int64_t tasks) const { return x_bytes + tasks * task_bytes; }
};

RowsPlan plan_rows(const GemmDesc& desc, const CpuKernel& kernel);

// `workspace` holds workspace_bytes; the weights are read where they lie.
void run_rows(const RowsPlan& plan, const GemmDesc& desc, const CpuWeights& weights, const GemmArgs& args,
              std::byte* workspace, std::int64_t workspace_bytes);

}  // namespace slidesparse
