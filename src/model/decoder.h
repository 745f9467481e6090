#pragma once

#include <functional>
#include <vector>

#include "model/model.h"
#include "model/weight_reader.h"

namespace slidesparse {

// The linears of one layer, in the order in which they run.
enum class LayerLinear : int { kQuery, kKey, kValue, kOutput, kGate, kUp, kDown };
inline constexpr int kLinearsPerLayer = 7;

struct DecoderNorms {
  TensorView input;
  TensorView post_attention;
  TensorView query;  // Qwen3 only
  TensorView key;
};

// Everything that the forward pass of the three families reads. They differ in biases (inside Linear), in the
// norms of q and k, and in the rotary frequencies only, so there is one decoder and no file a family.
struct DecoderWeights {
  ModelConfig config;
  TensorView embedding;  // BF16 [vocab, hidden]
  TensorView final_norm;
  std::vector<DecoderNorms> norms;  // [layers]
  std::vector<Linear> linears;      // [layers * kLinearsPerLayer], then the head
  std::vector<float> frequencies;   // [head_dim / 2]

  const Linear& linear(std::int64_t layer, LayerLinear which) const {
    return linears[static_cast<std::size_t>(layer * kLinearsPerLayer + static_cast<int>(which))];
  }
  const Linear& head() const { return linears.back(); }
};

DecoderWeights read_decoder(const ModelConfig& config, WeightReader& reader, const LinearOptions& options);

// The norms of one layer.
DecoderNorms read_norms(const ModelConfig& config, WeightReader& reader, std::int64_t layer);

// Linears that read the same input x [m, k], one after the other into the columns of out [m, sum of n].
void run_side_by_side(const Context& context, std::span<const Linear* const> linears, const TensorView& x,
                      const TensorView& out);

// From the outputs of q, k and v, side by side [m, q + 2 kv], to those of attention [m, q]: head norms,
// rotary embedding (angles: rotary_table()), keys and values into the pages.
void attend(const Context& context, const ModelConfig& config, const DecoderNorms& norms,
            const AttentionBatch& batch, const KvPages& pages, const TensorView& angles,
            const TensorView& qkv, const TensorView& attended);

// Throws kInput for what a caller may get wrong: token ids, positions, pages, rows.
void check_step(const ModelConfig& config, const Batch& batch, const KvCache& cache);

// Rows of logits that are computed at a time when nobody keeps them all.
std::int64_t logit_block_rows(const ModelConfig& config);

// Arena bytes of run_decoder, without kept logits.
std::int64_t decoder_workspace(const DecoderWeights& weights, const AttentionBatch& batch,
                               std::int64_t wanted);
AttentionBatch attention_batch(const Batch& batch);

// Activations that live through the layers of a step of m tokens: BF16 [m, hidden], and the rotary table.
struct DecoderStream {
  TensorView residual;
  TensorView normed;  // scratch
  TensorView update;  // what the last block is still to add to the residual
  TensorView angles;  // F32 [m, head_dim]
};
// In the arena; residual, normed and update are not set.
DecoderStream make_stream(const Context& context, const DecoderWeights& weights,
                          std::span<const std::int32_t> positions);

// Layers [first, last): stream.residual is the input of `first`; afterwards residual + update is that of
// `last`.
void run_layers(const Context& context, const DecoderWeights& weights, std::int64_t first, std::int64_t last,
                const AttentionBatch& batch, const KvCache& cache, const DecoderStream& stream);

// Final norm of residual + update and head of the wanted rows, as run_decoder() hands them out.
void project_rows(const Context& context, const DecoderWeights& weights, const DecoderStream& stream,
                  std::span<const std::int32_t> wanted, const TensorView* logits,
                  const std::function<void(std::int64_t, const TensorView&)>& consume);

// The forward pass. When `logits` is not null it gets all wanted rows, otherwise `consume` gets them block by
// block.
void run_decoder(const Context& context, const DecoderWeights& weights, const Batch& batch,
                 const KvCache& cache, const TensorView* logits,
                 const std::function<void(std::int64_t, const TensorView&)>& consume);

}  // namespace slidesparse
