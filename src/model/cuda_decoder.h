#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/cuda/memory.h"
#include "model/config.h"
#include "model/model.h"
#include "model/weight_reader.h"
#include "ops/cuda_linear.h"

namespace slidesparse {

// The indices of one step, on the card (kernels/cuda/qkv.h and paged_attention.h say what they mean).
struct CudaStep {
  std::int64_t tokens = 0;
  std::int64_t sequences = 0;
  std::int64_t wanted = 0;
  std::int64_t max_blocks = 0;
  std::int64_t longest_query = 0;              // at most, of any sequence: new tokens
  std::int64_t longest_context = 0;            // and with those in the cache
  const std::int32_t* token_ids = nullptr;     // [tokens]
  const std::int32_t* positions = nullptr;     // [tokens]
  const std::int32_t* slots = nullptr;         // [tokens]: page * page_size + place in it
  const std::int32_t* cu_seqlens = nullptr;    // [sequences + 1]
  const std::int32_t* contexts = nullptr;      // [sequences]
  const std::int32_t* block_tables = nullptr;  // [sequences, max_blocks]
  const std::int32_t* wanted_rows = nullptr;   // [wanted]
};

// Copies the indices of batches to the card in stream order, from pinned memory. Batches of equal sizes stand
// at equal addresses there, so that a graph can read them.
class CudaStepBuffers {
 public:
  // Position of a token whose keys and values go nowhere; it is rotated as the first one.
  static constexpr std::int32_t kNowhere = -1;

  // Memory for steps of so many tokens and sequences (wanted rows are at most tokens), in `sets` sets on the
  // host. upload() grows what is too small, which moves it.
  void reserve(std::int64_t tokens, std::int64_t sequences, std::int64_t max_blocks, std::size_t sets);
  // The copy out of the same set before must be done.
  CudaStep upload(const Batch& batch, std::int64_t page_size, void* stream, std::size_t set = 0);

 private:
  void grow(std::int64_t bytes, std::size_t set);

  std::vector<PinnedBuffer> host_;
  DeviceBuffer device_;
};

// The decoder of the three families on one card: fused linears (q, k and v; gate and up), each with what
// precedes it in one kernel.
class CudaDecoder {
 public:
  // Reads every weight once, layer by layer; the reader can go afterwards. `progress` gets linears done and
  // their number.
  CudaDecoder(const ModelConfig& config, WeightReader& reader, const CudaLinearOptions& options,
              const std::function<void(std::int64_t done, std::int64_t total)>& progress = {});

  const ModelConfig& config() const { return config_; }
  ModelSummary summary() const { return summary_; }
  // Of all linears, head last.
  const std::vector<CudaLinear>& linears() const { return linears_; }
  // On the card, by what it is for.
  std::vector<DeviceMemoryUse::Entry> memory() const;

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
  Stream start(const Context& context, const CudaStep& step) const;
  void run_layers(const Context& context, const CudaStep& step, const KvCache& cache,
                  const Stream& stream) const;
  void run_attention(const Context& context, const CudaStep& step, const KvCache& cache, std::int64_t layer,
                     const Stream& stream) const;
  void project(const Context& context, const Stream& stream, const std::int32_t* rows, std::int64_t count,
               float* logits) const;
  const CudaLinear& linear(std::int64_t layer, int which) const {
    return linears_[static_cast<std::size_t>(layer * 4 + which)];
  }

  ModelConfig config_;
  ModelSummary summary_;
  DeviceBuffer embedding_;   // BF16 [vocab, hidden]
  DeviceBuffer final_norm_;  // BF16 [hidden]
  DeviceBuffer angles_;      // FP32 [max_position, head_dim]: cosines, then sines
  std::vector<Norms> norms_;
  std::vector<CudaLinear> linears_;  // [layers][qkv, o, gate_up, down], then the head
};

}  // namespace slidesparse
