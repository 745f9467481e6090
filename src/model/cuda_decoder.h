#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/cuda/memory.h"
#include "model/config.h"
#include "model/cuda_plan.h"
#include "model/cuda_step.h"
#include "model/model.h"
#include "model/weight_reader.h"
#include "ops/cuda_linear.h"
#include "ops/prompt_attention.h"

namespace slidesparse {

// The decoder of the three families on one card: fused linears (q, k and v; gate and up), each with what
// precedes it in one kernel.
class CudaDecoder {
 public:
  // Reads every weight once, layer by layer; the reader can go afterwards. `progress` gets linears done and
  // their number.
  CudaDecoder(const ModelConfig& config, WeightReader& reader, const CudaLinearOptions& options,
              AttentionChoice attention = AttentionChoice::kAuto,
              const std::function<void(std::int64_t done, std::int64_t total)>& progress = {});

  const ModelConfig& config() const { return config_; }
  ModelSummary summary() const { return summary_; }
  // Of all linears, head last.
  const std::vector<CudaLinear>& linears() const { return linears_; }

  // Arena bytes of run().
  std::int64_t workspace_bytes(std::int64_t tokens, std::int64_t wanted, std::int64_t sequences,
                               std::int64_t longest_query, std::int64_t longest_context) const;

  // One step; the wanted rows go through the head: logits FP32 [wanted, vocab] on the card. Neither allocates
  // nor synchronises once a step of as many tokens and wanted rows has been run.
  void run(const Context& context, const CudaStep& step, const KvCache& cache, float* logits) const;
  // The same, but `logits` holds `block` rows only: `consume` gets each block in stream order (first row,
  // rows) before the next one takes its place.
  void run_blocks(const Context& context, const CudaStep& step, const KvCache& cache, float* logits,
                  std::int64_t block, const std::function<void(std::int64_t, std::int64_t)>& consume) const;

 private:
  struct Norms {
    DeviceBuffer input, post_attention, query, key;
  };
  struct Stream;
  Stream start(const Context& context, const CudaStep& step, const KvCache& cache) const;
  void run_layers(const Context& context, const CudaStep& step, const KvCache& cache,
                  const Stream& stream) const;
  void run_attention(const Context& context, const CudaStep& step, const KvCache& cache, std::int64_t layer,
                     const Stream& stream) const;
  // The step's shape where cuDNN takes it.
  std::optional<PromptShape> whole_prompts(const CudaStep& step, const KvCache& cache) const;
  void project(const Context& context, const Stream& stream, const std::int32_t* rows, std::int64_t count,
               float* logits) const;
  const CudaLinear& linear(std::int64_t layer, int which) const {
    return linears_[static_cast<std::size_t>(layer * kPlacesOfLayer + which)];
  }

  ModelConfig config_;
  ModelSummary summary_;
  DeviceBuffer embedding_;  // BF16 [vocab, hidden]; empty: it is on the host, or the head's own rows
  PinnedBuffer embedding_on_host_;
  DeviceBuffer final_norm_;  // BF16 [hidden]
  DeviceBuffer angles_;      // FP32 [max_position, head_dim]: cosines, then sines
  std::vector<Norms> norms_;
  std::vector<CudaLinear> linears_;  // [layers][qkv, o, gate_up, down], then the head
  StepKernels step_kernels_;
  std::unique_ptr<PromptAttention> prompt_attention_;  // null: only our own
};

}  // namespace slidesparse
