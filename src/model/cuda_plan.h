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

// Whether the embedding stays in the host's memory, where a card can look rows up too: a step reads one row a
// token, 2 * hidden bytes. Where bytes count more than that, and no head needs it on the card.
bool embedding_on_host(const ModelConfig& config, WeightPolicy policy);

// The most arena bytes that a linear takes in a step of up to m tokens.
std::int64_t linear_scratch(const CudaLinearKernels& kernels, std::int64_t m);

// Sizes of a call alone, no pointers: what its workspace depends on.
cuda::PagedAttentionArgs attention_sizes(const ModelConfig& config, std::int64_t tokens,
                                         std::int64_t sequences, std::int64_t longest_query,
                                         std::int64_t longest_context);

}  // namespace slidesparse
