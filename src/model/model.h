#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/tensor.h"
#include "gemm/weight_forms.h"
#include "model/config.h"
#include "model/memory_plan.h"
#include "model/weights.h"
#include "ops/attention.h"
#include "ops/linear.h"

namespace slidesparse {

class CudaDecoder;

// What a cache holds.
struct KvCacheKind {
  DType dtype = DType::kBF16;  // on a card also kF8E4M3: codes without a scale, beyond +-448 saturated
  // Every layer uses the same pages: for steps that bring their sequences whole, so that nothing of an
  // earlier step is read.
  bool current_layer = false;
  // On the CPU: BF16 that is rounded to E4M3 as it is written, so that a card's kF8E4M3 has its reference.
  bool rounded = false;
};

// Where the keys and values of running sequences live: pages of `page_size` tokens for every layer. One
// sequence is a batch of one.
class KvCache {
 public:
  // Throws kUsage for sizes that make no sense, kUnsupported for 8-bit keys on the CPU and rounded ones on a
  // card.
  KvCache(const ModelConfig& config, std::int64_t pages, std::int64_t page_size, Device device = {},
          KvCacheKind kind = {});
  std::int64_t pages() const { return pages_; }
  std::int64_t page_size() const { return page_size_; }
  Device device() const { return device_; }
  KvPages layer(std::int64_t index) const;
  static std::int64_t bytes_per_page(const ModelConfig& config, std::int64_t page_size,
                                     DType dtype = DType::kBF16);  // of all layers

 private:
  std::shared_ptr<void> storage_;
  std::vector<KvPages> layers_;
  std::int64_t pages_ = 0;
  std::int64_t page_size_ = 0;
  Device device_;
};

// One step of a ragged batch (design of the engine: many sequences, each with any number of new tokens).
struct Batch {
  std::span<const std::int32_t> tokens;           // [tokens]
  std::span<const std::int32_t> positions;        // [tokens]
  std::span<const std::int32_t> cu_seqlens;       // [sequences + 1]
  std::span<const std::int32_t> context_lengths;  // [sequences]
  std::span<const std::int32_t> block_tables;     // [sequences, max_blocks]
  std::int64_t max_blocks = 0;
  std::span<const std::int32_t> wanted_rows;  // token indices whose logits are wanted, ascending
};

// On a card: who computes the attention of whole prompts.
enum class AttentionChoice {
  kAuto,  // cuDNN where it is there and has a plan, else our own kernel
  kOwn,   // our own kernel, as for everything else
};

struct ModelOptions {
  LinearOptions linear;
  bool validate = false;  // touch and check every byte of packed weights before the first use
  // The output head, kBF16, kI8 or kF8E4M3: a BF16 one is quantised when it is loaded. Nothing: as it is
  // stored. The embedding stays BF16.
  std::optional<DType> head{};

  DeviceKind device = DeviceKind::kCpu;
  // On a card: which forms of the weights stay there, decided by the times at these numbers of tokens.
  WeightPolicy weights = WeightPolicy::kFastest;
  AttentionChoice attention = AttentionChoice::kAuto;
  std::vector<std::int64_t> ms{1, 16, 64, 256, 1024, 4096};
  // Called before anything is on a card, with what the model will take there when contexts have at most so
  // many tokens (card_model.h): throws when that, and what the caller needs besides, does not fit.
  std::function<void(const ModelConfig& config,
                     const std::function<MemoryDemand(std::int64_t longest_context)>& model)>
      check_memory;
  // Called while weights go to a card: linears done, and how many there are.
  std::function<void(std::int64_t done, std::int64_t total)> progress;
};

// What one (on a card: fused) linear runs on at some number of tokens.
struct LinearUse {
  std::string name;
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  DType dtype = DType::kI8;
  DType out = DType::kBF16;
  Pattern pattern;
  Choice choice;
  std::int64_t weight_bytes_read = 0;  // by one run
};

struct ModelSummary {
  std::int64_t linear_bytes = 0;  // values, codes, scales of all linears, as stored
  std::int64_t embedding_bytes = 0;
  std::int64_t head_bytes = 0;  // 0 when tied and not quantised
  std::int64_t other_bytes = 0;
  std::string dtype;      // "bf16", "int8", "fp8"
  std::string pattern;    // "6:8", "6:8 split", "dense", "mixed"
  std::string attention;  // on a card: what computes it, in words
};

class Model {
 public:
  // Opens a packed directory, a compressed-tensors W8A8 directory or a plain BF16/FP16/FP32 one. Weights stay
  // mapped.
  static Model load(const std::filesystem::path& directory, const ModelOptions& options = {});
  // Random weights of `config` (head: BF16, I8 or F8_E4M3) quantised and packed in memory (speed runs): valid
  // for the pattern, deterministic.
  static Model random(const ModelConfig& config, DType dtype, Pattern pattern, DType head, std::uint64_t seed,
                      const ModelOptions& options = {}, Layout layout = Layout::kPacked,
                      RandomLayers layers = RandomLayers::kOwn);
  ~Model();
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;

  const ModelConfig& config() const;
  ModelSummary summary() const;
  // logits F32 [wanted_rows, vocab]. A model on a card brings its own stream and memory, and needs a cache
  // there; logits may be on either side. Throws kInput for token ids outside the vocabulary, positions beyond
  // the pages or beyond max_position.
  void forward(const Context& context, const Batch& batch, const KvCache& cache,
               const TensorView& logits) const;
  // As forward, but hands each block of wanted rows' logits to `consume` (first row index, view [rows,
  // vocab]) instead of keeping them all: what `eval` needs (2048 x 151936 floats are 1.2 GB).
  void forward_blocks(const Context& context, const Batch& batch, const KvCache& cache,
                      const std::function<void(std::int64_t first, const TensorView& logits)>& consume) const;
  // Arena bytes that a step of `tokens` tokens takes on the CPU.
  std::int64_t workspace_bytes(std::int64_t tokens, std::int64_t sequences) const;
  // What all linears (head last) run on in a step of m tokens of which `wanted` rows go through the head.
  std::vector<LinearUse> linears_at(std::int64_t m, std::int64_t wanted) const;
  Device device() const;
  // Of a model on a card, for who drives it step by step; null on the CPU.
  const CudaDecoder* cuda_decoder() const;

 private:
  struct State;
  explicit Model(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace slidesparse
