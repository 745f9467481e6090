#include "model/decoder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/fail.h"
#include "model/rotary_frequencies.h"
#include "ops/elementwise.h"

namespace slidesparse {
namespace {

// Logits that are held at a time by forward_blocks: 32 MB of FP32.
constexpr std::int64_t kLogitBlock = std::int64_t{1} << 23;

TensorView bf16_matrix(const Context& context, std::int64_t rows, std::int64_t columns) {
  return TensorView::contiguous(context.arena->allocate<std::uint16_t>(rows * columns), DType::kBF16,
                                {rows, columns});
}

// Columns [begin, begin + count) of a row-major matrix.
TensorView columns(const TensorView& x, std::int64_t begin, std::int64_t count) {
  auto* data = x.as<std::byte>() + begin * static_cast<std::int64_t>(dtype_size(x.dtype));
  TensorView view = TensorView::contiguous(data, x.dtype, {x.dim(0), count});
  view.strides[0] = x.stride(0);
  return view;
}

// [m, heads * head_dim] as [m, heads, head_dim].
TensorView as_heads(const TensorView& x, std::int64_t head_dim) {
  TensorView view = TensorView::contiguous(x.data, x.dtype, {x.dim(0), x.dim(1) / head_dim, head_dim});
  view.strides[0] = x.stride(0);
  return view;
}

void attention_block(const Context& context, const DecoderWeights& weights, std::int64_t layer,
                     const AttentionBatch& batch, const KvPages& pages, const DecoderStream& stream) {
  const ModelConfig& config = weights.config;
  const std::int64_t q_width = config.heads * config.head_dim;
  const std::int64_t kv_width = config.kv_heads * config.head_dim;
  const std::int64_t m = stream.residual.dim(0);
  Arena::Scope scope(*context.arena);
  const TensorView qkv = bf16_matrix(context, m, q_width + 2 * kv_width);
  const TensorView attended = bf16_matrix(context, m, q_width);
  const std::array inputs{&weights.linear(layer, LayerLinear::kQuery),
                          &weights.linear(layer, LayerLinear::kKey),
                          &weights.linear(layer, LayerLinear::kValue)};
  run_side_by_side(context, inputs, stream.normed, qkv);
  attend(context, config, weights.norms[static_cast<std::size_t>(layer)], batch, pages, stream.angles, qkv,
         attended);
  const std::array output{&weights.linear(layer, LayerLinear::kOutput)};
  run_side_by_side(context, output, attended, stream.update);
}

void mlp_block(const Context& context, const DecoderWeights& weights, std::int64_t layer,
               const DecoderStream& stream) {
  const std::int64_t width = weights.config.intermediate;
  const std::int64_t m = stream.residual.dim(0);
  Arena::Scope scope(*context.arena);
  const TensorView gate_up = bf16_matrix(context, m, 2 * width);
  const TensorView active = bf16_matrix(context, m, width);
  const std::array inputs{&weights.linear(layer, LayerLinear::kGate),
                          &weights.linear(layer, LayerLinear::kUp)};
  run_side_by_side(context, inputs, stream.normed, gate_up);
  silu_mul(context, gate_up, active);
  const std::array output{&weights.linear(layer, LayerLinear::kDown)};
  run_side_by_side(context, output, active, stream.update);
}

void gather_rows(const TensorView& from, std::span<const std::int32_t> rows, const TensorView& to) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(to.as<std::uint16_t>() + static_cast<std::int64_t>(i) * to.stride(0),
                from.as<std::uint16_t>() + rows[i] * from.stride(0),
                static_cast<std::size_t>(2 * from.dim(1)));
  }
}

// Bytes of a quantised input of m tokens and of the linear's own scratch.
std::int64_t linear_bytes(const Linear& linear, std::int64_t m, DType out = DType::kBF16) {
  const std::int64_t input = linear.dtype() == DType::kBF16 ? 0 : m * (linear.k() + 4) + 128;
  return input + linear.workspace_bytes(m, out);
}

}  // namespace

void run_side_by_side(const Context& context, std::span<const Linear* const> linears, const TensorView& x,
                      const TensorView& out) {
  Arena::Scope scope(*context.arena);
  // Quantised once for all linears that want the same type (a layer that a quantisation left out may want
  // another).
  std::optional<QuantisedInput> input;
  std::int64_t first = 0;
  for (const Linear* linear : linears) {
    if (!input || input->codes.dtype != linear->dtype()) input = quantise_input(context, x, linear->dtype());
    Arena::Scope scratch(*context.arena);
    linear->run(context, *input, columns(out, first, linear->n()));
    first += linear->n();
  }
}

void attend(const Context& context, const ModelConfig& config, const DecoderNorms& norms,
            const AttentionBatch& batch, const KvPages& pages, const TensorView& angles,
            const TensorView& qkv, const TensorView& attended) {
  const std::int64_t q_width = config.heads * config.head_dim;
  const std::int64_t kv_width = config.kv_heads * config.head_dim;
  const TensorView q = as_heads(columns(qkv, 0, q_width), config.head_dim);
  const TensorView k = as_heads(columns(qkv, q_width, kv_width), config.head_dim);
  const TensorView v = as_heads(columns(qkv, q_width + kv_width, kv_width), config.head_dim);
  if (config.qk_norm) {
    head_rms_norm(context, q, norms.query, config.rms_eps);
    head_rms_norm(context, k, norms.key, config.rms_eps);
  }
  rotary(context, q, k, angles);
  write_kv(context, batch, k, v, pages);
  paged_attention(context, batch, q, pages, 1.0 / std::sqrt(static_cast<double>(config.head_dim)),
                  as_heads(attended, config.head_dim));
}

AttentionBatch attention_batch(const Batch& batch) {
  return {batch.cu_seqlens, batch.context_lengths, batch.block_tables, batch.max_blocks};
}

std::int64_t logit_block_rows(const ModelConfig& config) {
  return std::clamp<std::int64_t>(kLogitBlock / config.vocab / 16 * 16, 16, 1024);
}

DecoderNorms read_norms(const ModelConfig& config, WeightReader& reader, std::int64_t layer) {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  DecoderNorms norms;
  norms.input = reader.plain({prefix + "input_layernorm.weight", {config.hidden}});
  norms.post_attention = reader.plain({prefix + "post_attention_layernorm.weight", {config.hidden}});
  if (config.qk_norm) {
    norms.query = reader.plain({prefix + "self_attn.q_norm.weight", {config.head_dim}});
    norms.key = reader.plain({prefix + "self_attn.k_norm.weight", {config.head_dim}});
  }
  return norms;
}

DecoderWeights read_decoder(const ModelConfig& config, WeightReader& reader, const LinearOptions& options) {
  const WeightTable table = weight_table(config);
  DecoderWeights weights;
  weights.config = config;
  weights.embedding = reader.plain({table.embedding, {config.vocab, config.hidden}});
  for (std::int64_t i = 0; i < config.layers; ++i) weights.norms.push_back(read_norms(config, reader, i));
  for (const FusedGroup& group : table.groups) {
    for (const LinearSpec& spec : group.members) {
      weights.linears.emplace_back(spec.name, reader.linear(spec, group), options);
    }
  }
  weights.final_norm = reader.plain({"model.norm.weight", {config.hidden}});
  const LinearSpec head{table.head, config.vocab, config.hidden};
  weights.linears.emplace_back(head.name, reader.head(head, weights.embedding), options);
  weights.frequencies = rotary_frequencies(config.rope, config.head_dim);
  return weights;
}

void check_step(const ModelConfig& config, const Batch& batch, const KvCache& cache) {
  const auto tokens = static_cast<std::int64_t>(batch.tokens.size());
  const auto sequences = static_cast<std::int64_t>(batch.context_lengths.size());
  if (tokens == 0) fail_input("a step without tokens");
  if (static_cast<std::int64_t>(batch.positions.size()) != tokens ||
      static_cast<std::int64_t>(batch.cu_seqlens.size()) != sequences + 1 || batch.cu_seqlens.front() != 0 ||
      batch.cu_seqlens.back() != tokens) {
    fail_input("batch: {} tokens, {} positions, {} sequences, {} offsets from {} to {}", tokens,
               batch.positions.size(), sequences, batch.cu_seqlens.size(),
               batch.cu_seqlens.empty() ? -1 : batch.cu_seqlens.front(),
               batch.cu_seqlens.empty() ? -1 : batch.cu_seqlens.back());
  }
  if (batch.max_blocks < 0 ||
      static_cast<std::int64_t>(batch.block_tables.size()) != sequences * batch.max_blocks) {
    fail_input("batch: {} block table entries for {} sequences of {}", batch.block_tables.size(), sequences,
               batch.max_blocks);
  }
  for (const std::int32_t token : batch.tokens) {
    if (token < 0 || token >= config.vocab) {
      fail_input("token id {} is not in the vocabulary of {} tokens", token, config.vocab);
    }
  }
  for (std::int64_t s = 0; s < sequences; ++s) {
    const auto i = static_cast<std::size_t>(s);
    const std::int64_t begin = batch.cu_seqlens[i];
    const std::int64_t end = batch.cu_seqlens[i + 1];
    const std::int64_t context = batch.context_lengths[i];
    if (end < begin || end > tokens || end - begin > context) {
      fail_input("sequence {}: tokens {} to {} of a context of {}", s, begin, end, context);
    }
    if (context > config.max_position) {
      fail_input("sequence {}: position {} is beyond the model's {} positions", s, context - 1,
                 config.max_position);
    }
    if (context > batch.max_blocks * cache.page_size()) {
      fail_input("sequence {}: a context of {} does not fit in {} pages of {} tokens", s, context,
                 batch.max_blocks, cache.page_size());
    }
    for (std::int64_t t = begin; t < end; ++t) {
      if (batch.positions[static_cast<std::size_t>(t)] != context - end + t) {
        fail_input("sequence {}: token {} has position {}, but its context length {} makes it {}", s, t,
                   batch.positions[static_cast<std::size_t>(t)], context, context - end + t);
      }
    }
    for (std::int64_t b = 0; b < ceil_div(context, cache.page_size()); ++b) {
      const std::int32_t page = batch.block_tables[static_cast<std::size_t>(s * batch.max_blocks + b)];
      if (page < 0 || page >= cache.pages()) {
        fail_input("sequence {}: block {} is page {} of a cache of {}", s, b, page, cache.pages());
      }
    }
  }
  std::int64_t previous = -1;
  for (const std::int32_t row : batch.wanted_rows) {
    if (row <= previous || row >= tokens) {
      fail_input("wanted row {} after {}: ascending rows below {} are needed", row, previous, tokens);
    }
    previous = row;
  }
}

std::int64_t decoder_workspace(const DecoderWeights& weights, const AttentionBatch& batch,
                               std::int64_t wanted) {
  const ModelConfig& config = weights.config;
  const std::int64_t m = batch.cu_seqlens.back();
  const std::int64_t q_width = config.heads * config.head_dim;
  const std::int64_t kv_width = config.kv_heads * config.head_dim;
  constexpr std::int64_t kAlign = static_cast<std::int64_t>(Buffer::kAlignment);
  const auto matrix = [](std::int64_t rows, std::int64_t width) {
    return round_up(2 * rows * width, kAlign);
  };

  std::int64_t linears = 0;
  for (std::size_t i = 0; i + 1 < weights.linears.size(); ++i)
    linears = std::max(linears, linear_bytes(weights.linears[i], m));
  // Twice the input: a group whose members want different types.
  linears += m * std::max(config.hidden, std::max(q_width, config.intermediate)) + 4 * m + 2 * kAlign;
  const std::int64_t attention =
      matrix(m, 2 * q_width + 2 * kv_width) + kAlign +
      std::max(linears, paged_attention_workspace(batch, config.kv_heads, config.head_dim) +
                            linear_bytes(weights.linear(0, LayerLinear::kOutput), m));
  const std::int64_t mlp = matrix(m, 3 * config.intermediate) + kAlign + linears;
  const std::int64_t block = std::min(wanted, std::max(logit_block_rows(config), wanted));
  const std::int64_t head =
      block == 0 ? 0
                 : 3 * matrix(block, config.hidden) + linear_bytes(weights.head(), block, DType::kF32) +
                       4 * std::min(wanted, logit_block_rows(config)) * config.vocab + kAlign;
  const std::int64_t stream = 3 * matrix(m, config.hidden) + 4 * m * config.head_dim + kAlign;
  return stream + std::max({attention, mlp, head});
}

DecoderStream make_stream(const Context& context, const DecoderWeights& weights,
                          std::span<const std::int32_t> positions) {
  const ModelConfig& config = weights.config;
  const auto m = static_cast<std::int64_t>(positions.size());
  DecoderStream stream;
  stream.residual = bf16_matrix(context, m, config.hidden);
  stream.normed = bf16_matrix(context, m, config.hidden);
  stream.update = bf16_matrix(context, m, config.hidden);
  stream.angles = TensorView::contiguous(context.arena->allocate<float>(m * config.head_dim), DType::kF32,
                                         {m, config.head_dim});
  rotary_table(context, positions, weights.frequencies, stream.angles);
  return stream;
}

void run_layers(const Context& context, const DecoderWeights& weights, std::int64_t first, std::int64_t last,
                const AttentionBatch& batch, const KvCache& cache, const DecoderStream& stream) {
  const double eps = weights.config.rms_eps;
  for (std::int64_t layer = first; layer < last; ++layer) {
    const DecoderNorms& norms = weights.norms[static_cast<std::size_t>(layer)];
    if (layer == first) {
      rms_norm(context, stream.residual, norms.input, eps, stream.normed);
    } else {
      add_rms_norm(context, stream.residual, stream.update, norms.input, eps, stream.normed);
    }
    attention_block(context, weights, layer, batch, cache.layer(layer), stream);
    add_rms_norm(context, stream.residual, stream.update, norms.post_attention, eps, stream.normed);
    mlp_block(context, weights, layer, stream);
  }
}

void project_rows(const Context& context, const DecoderWeights& weights, const DecoderStream& stream,
                  std::span<const std::int32_t> wanted, const TensorView* logits,
                  const std::function<void(std::int64_t, const TensorView&)>& consume) {
  const ModelConfig& config = weights.config;
  const auto total = static_cast<std::int64_t>(wanted.size());
  const std::int64_t block = logits != nullptr ? total : logit_block_rows(config);
  const std::array head{&weights.head()};
  for (std::int64_t first = 0; first < total; first += block) {
    const std::int64_t rows = std::min(block, total - first);
    const auto ids = wanted.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows));
    Arena::Scope scope(*context.arena);
    const TensorView residual = bf16_matrix(context, rows, config.hidden);
    const TensorView update = bf16_matrix(context, rows, config.hidden);
    const TensorView normed = bf16_matrix(context, rows, config.hidden);
    gather_rows(stream.residual, ids, residual);
    gather_rows(stream.update, ids, update);
    add_rms_norm(context, residual, update, weights.final_norm, config.rms_eps, normed);
    if (logits != nullptr) {
      run_side_by_side(context, head, normed, *logits);
      continue;
    }
    const TensorView out = TensorView::contiguous(context.arena->allocate<float>(rows * config.vocab),
                                                  DType::kF32, {rows, config.vocab});
    run_side_by_side(context, head, normed, out);
    consume(first, out);
  }
}

void run_decoder(const Context& context, const DecoderWeights& weights, const Batch& batch,
                 const KvCache& cache, const TensorView* logits,
                 const std::function<void(std::int64_t, const TensorView&)>& consume) {
  Arena::Scope scope(*context.arena);
  const DecoderStream stream = make_stream(context, weights, batch.positions);
  embed(context, weights.embedding, batch.tokens, stream.residual);
  run_layers(context, weights, 0, weights.config.layers, attention_batch(batch), cache, stream);
  project_rows(context, weights, stream, batch.wanted_rows, logits, consume);
}

}  // namespace slidesparse
