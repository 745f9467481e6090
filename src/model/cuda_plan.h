#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "gemm/desc.h"
#include "kernels/cuda/paged_attention.h"
#include "model/config.h"
#include "ops/cuda_linear.h"

// Sizes of a model on a card that are known before anything is there: the decoder and the memory planner ask
// the same functions.
namespace slidesparse {

// The problem of linears that read the same input, without its M. Throws kUnsupported when their dtypes,
// patterns or layouts differ.
GemmDesc fused_desc(const std::string& name, std::span<const WeightSource> members, DType out);
// Equal for linears that can share their kernels.
std::string kernels_key(const GemmDesc& desc);

// The most arena bytes that a linear takes in a step of up to m tokens.
std::int64_t linear_scratch(const CudaLinearKernels& kernels, std::int64_t m);

// Sizes of a call alone, no pointers: what its workspace depends on.
cuda::PagedAttentionArgs attention_sizes(const ModelConfig& config, std::int64_t tokens,
                                         std::int64_t sequences, std::int64_t longest_query,
                                         std::int64_t longest_context);

}  // namespace slidesparse
