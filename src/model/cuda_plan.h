#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gemm/desc.h"
#include "kernels/cuda/paged_attention.h"
#include "model/config.h"
#include "model/memory_plan.h"
#include "ops/cuda_linear.h"

// Sizes of a model on a card that are known before anything is there: the decoder and the memory planner ask
// the same functions.
namespace slidesparse {

// The problem of linears that read the same input, without its M. Throws kUnsupported when their dtypes,
// patterns or layouts differ.
GemmDesc fused_desc(const std::string& name, std::span<const WeightSource> members, DType out);

// Kernels of linears, one object for all of one shape.
class KernelSet {
 public:
  explicit KernelSet(CudaLinearOptions options) : options_(std::move(options)) {}
  // Throws kUnsupported where nothing can run it.
  std::shared_ptr<const CudaLinearKernels> of(const GemmDesc& desc);
  // The same for the head. Backends are asked for the layers' sake: where none of them has a product for the
  // head, any other's is taken. Throws kUnsupported, with what to ask for instead, for a quantised head that
  // nothing on the card can run.
  std::shared_ptr<const CudaLinearKernels> of_head(const GemmDesc& desc);

 private:
  std::shared_ptr<const CudaLinearKernels> of_any(const GemmDesc& desc);
  CudaLinearOptions options_;
  std::map<std::string, std::shared_ptr<const CudaLinearKernels>> made_;
};

// Places of fused linears: four in a layer, in this order, and the head.
enum FusedPlace : int { kQkv, kOutput, kGateUp, kDown, kHead };
constexpr int kPlacesOfLayer = 4;

// What runs at each place of a step; more than one where layers differ.
class StepKernels {
 public:
  void add(FusedPlace place, std::shared_ptr<const CudaLinearKernels> kernels);
  // The most that any layer takes in a step of up to so many tokens and wanted rows.
  StepScratch scratch(const ModelConfig& config, std::int64_t tokens, std::int64_t wanted,
                      std::int64_t sequences, std::int64_t longest_query, std::int64_t longest_context) const;

 private:
  std::int64_t most(FusedPlace place, std::int64_t m) const;
  std::array<std::vector<std::shared_ptr<const CudaLinearKernels>>, 5> at_;
};

// Sizes of a call alone, no pointers: what its workspace depends on.
cuda::PagedAttentionArgs attention_sizes(const ModelConfig& config, std::int64_t tokens,
                                         std::int64_t sequences, std::int64_t longest_query,
                                         std::int64_t longest_context);

}  // namespace slidesparse
