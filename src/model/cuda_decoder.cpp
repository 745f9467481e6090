#include "model/cuda_decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <tuple>

#include "core/buffer.h"
#include "core/cuda/check.h"
#include "core/cuda/stream.h"
#include "core/dtype_words.h"
#include "core/fail.h"
#include "gemm/backends/cuda_weights.h"
#include "gemm/layer_weights.h"
#include "kernels/cuda/gather.h"
#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/prompt_offsets.h"
#include "kernels/cuda/qkv.h"
#include "model/memory_plan.h"
#include "model/rotary_frequencies.h"
#include "ops/elementwise.h"

namespace slidesparse {
namespace {

DeviceBuffer upload(const TensorView& view, const char* name, const CudaStream& stream) {
  DeviceBuffer buffer(view.byte_size(), name);
  copy_to_device(buffer.data(), view.data, view.byte_size(), stream.handle());
  stream.synchronize();
  return buffer;
}

// Cosines and sines of every position: the CPU's own, so that both rotate by the same numbers.
DeviceBuffer upload_angles(const ModelConfig& config, const CudaStream& stream) {
  const std::vector<float> frequencies = rotary_frequencies(config.rope, config.head_dim);
  const std::int64_t positions = config.max_position;
  Buffer table(static_cast<std::size_t>(positions * config.head_dim * 4));
  std::vector<std::int32_t> all(static_cast<std::size_t>(positions));
  for (std::int64_t i = 0; i < positions; ++i)
    all[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i);
  const TensorView view =
      TensorView::contiguous(static_cast<void*>(table.data()), DType::kF32, {positions, config.head_dim});
  rotary_table({}, all, frequencies, view);
  return upload(view, "rotary table", stream);
}

// RMSNorm of the residual and what is added to it (may be null); the sum goes to `residual_out` (may be
// null).
CudaLinearInput normed(const ModelConfig& config, const void* residual, const void* update,
                       const DeviceBuffer& weight, void* residual_out) {
  CudaLinearInput input;
  input.producer = cuda::Producer::kRmsNorm;
  input.x = residual;
  input.residual_out = residual_out;
  input.ldx = config.hidden;
  input.update = update;
  input.norm_weight = weight.data();
  input.eps = static_cast<float>(config.rms_eps);
  return input;
}

// Makes fused linears; those of one shape share their kernels, which `step` is told of.
class LinearMaker {
 public:
  LinearMaker(const CudaLinearOptions& options, StepKernels& step) : set_(options), step_(step) {}

  // With `row_order`, the channels of each member's output stand in it.
  CudaLinear make(FusedPlace place, const std::string& name, std::span<const WeightSource> members,
                  std::span<const std::int32_t> row_order = {}) {
    const GemmDesc desc = fused_desc(name, members, place == kHead ? DType::kF32 : DType::kBF16);
    auto kernels = place == kHead ? set_.of_head(desc) : set_.of(desc);
    step_.add(place, kernels);
    if (members.size() == 1 && row_order.empty()) return {name, std::move(kernels), members.front()};
    const LayerWeights joined = LayerWeights::joined(desc, members, 1, row_order);
    return {name, std::move(kernels), joined.source(0, 0, desc.n)};
  }

 private:
  KernelSet set_;
  StepKernels& step_;
};

}  // namespace

CudaDecoder::CudaDecoder(const ModelConfig& config, WeightReader& reader, const CudaLinearOptions& options,
                         AttentionChoice attention,
                         const std::function<void(std::int64_t, std::int64_t)>& progress)
    : config_(config) {
  if (attention == AttentionChoice::kAuto) {
    prompt_attention_ = std::make_unique<PromptAttention>();
    summary_.attention = prompt_attention_->reason().empty()
                             ? prompt_attention_->version() + " for whole prompts, else own"
                             : "own (" + prompt_attention_->reason() + ")";
  } else {
    summary_.attention = "own";
  }
  const auto staging = hold_weight_staging();
  const CudaStream stream;
  const WeightTable table = weight_table(config);
  const TensorView embedding = reader.plain({table.embedding, {config.vocab, config.hidden}});
  summary_.embedding_bytes = embedding.byte_size();
  // In the order of the CPU's decoder: random weights depend on it.
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    const auto norm = [&](const char* name, std::int64_t width) {
      const TensorView view = reader.plain({layer + name, {width}});
      summary_.other_bytes += view.byte_size();
      return upload(view, "norms", stream);
    };
    Norms& norms = norms_.emplace_back();
    norms.input = norm("input_layernorm.weight", config.hidden);
    norms.post_attention = norm("post_attention_layernorm.weight", config.hidden);
    if (!config.qk_norm) continue;
    norms.query = norm("self_attn.q_norm.weight", config.head_dim);
    norms.key = norm("self_attn.k_norm.weight", config.head_dim);
  }
  LinearMaker maker(options, step_kernels_);
  std::set<std::string> patterns, dtypes;
  const auto total = static_cast<std::int64_t>(table.groups.size()) + 1;
  const auto read = [&](const FusedGroup& group) {
    std::vector<WeightSource> members;
    for (const LinearSpec& spec : group.members) members.push_back(reader.linear(spec, group));
    for (const WeightSource& member : members) {
      summary_.linear_bytes += stored_bytes(member);
      patterns.insert(pattern_words(member));
      dtypes.emplace(dtype_word(member.dtype));
    }
    return members;
  };
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const FusedGroup* const groups = &table.groups[static_cast<std::size_t>(kPlacesOfLayer * i)];
    linears_.push_back(maker.make(kQkv, groups[kQkv].name, read(groups[kQkv])));
    linears_.push_back(maker.make(kOutput, groups[kOutput].name, read(groups[kOutput])));
    // Gate and up write their channels in the order in which down reads them.
    const std::vector<WeightSource> gate_up = read(groups[kGateUp]);
    CudaLinear down = maker.make(kDown, groups[kDown].name, read(groups[kDown]));
    linears_.push_back(maker.make(kGateUp, groups[kGateUp].name, gate_up, down.input_order()));
    linears_.push_back(std::move(down));
    if (progress) progress(static_cast<std::int64_t>(linears_.size()), total);
  }
  const TensorView final_norm = reader.plain({"model.norm.weight", {config.hidden}});
  final_norm_ = upload(final_norm, "norms", stream);
  summary_.other_bytes += final_norm.byte_size();
  const LinearSpec head{table.head, config.vocab, config.hidden};
  const WeightSource source = reader.head(head, embedding);
  linears_.push_back(maker.make(kHead, head.name, std::span(&source, 1)));
  // A tied head in BF16 is the embedding.
  const bool shared = source.values == embedding.data && linears_.back().dense_rows().data != nullptr;
  if (embedding_on_host(config, options.weights, source.dtype)) {
    embedding_on_host_ = PinnedBuffer(embedding.byte_size());
    std::memcpy(embedding_on_host_.data(), embedding.data, static_cast<std::size_t>(embedding.byte_size()));
  } else if (!shared) {
    embedding_ = upload(embedding, "embedding", stream);
  }
  summary_.head_bytes = source.values == embedding.data ? 0 : stored_bytes(source);
  summary_.dtype = dtypes.size() == 1 ? *dtypes.begin() : "mixed";
  summary_.pattern = patterns.size() == 1 ? *patterns.begin() : "mixed";
  angles_ = upload_angles(config, stream);
  if (progress) progress(total, total);
}

// What lives through the whole pass, and the widest of what a layer holds besides.
struct CudaDecoder::Stream {
  std::int64_t m = 0;
  std::uint16_t* residual = nullptr;   // BF16 [m, hidden]
  std::uint16_t* update = nullptr;     // BF16 [m, hidden]: what the last block adds to it
  std::optional<PromptShape> prompts;  // whose attention is cuDNN's
  PromptArgs places;                   // of those of unequal lengths
};

std::int64_t CudaDecoder::workspace_bytes(std::int64_t tokens, std::int64_t wanted, std::int64_t sequences,
                                          std::int64_t longest_query, std::int64_t longest_context) const {
  const StepScratch scratch =
      step_kernels_.scratch(config_, tokens, wanted, sequences, longest_query, longest_context);
  return step_bytes(config_, tokens, wanted, scratch);
}

std::optional<PromptShape> CudaDecoder::whole_prompts(const CudaStep& step, const KvCache& cache) const {
  // Each length is a plan of its own where all are equal: few of them. Others share the plans of their class,
  // whose kernels are for longer prompts. Either only where it pays.
  constexpr std::int64_t kShortest = 128, kMultiple = 64, kLongestFrom = 256;
  if (!prompt_attention_ || !step.whole || step.sequences == 0) return {};
  // Attention reads what the cache would give back: 8-bit keys are rounded.
  if (cache.layer(0).keys.dtype != DType::kBF16) return {};
  const std::int64_t length = step.longest_query;
  const std::int64_t q_width = config_.heads * config_.head_dim;
  const std::int64_t width = q_width + 2 * config_.kv_heads * config_.head_dim;
  PromptShape shape{step.sequences, length, config_.heads, config_.kv_heads, config_.head_dim};
  const bool equal = step.tokens == step.sequences * length && length % kMultiple == 0;
  if (!equal) {
    if (length < kLongestFrom) return {};
    shape = unequal_prompts(step.sequences, length, config_.heads, config_.kv_heads, config_.head_dim);
  }
  if (step.tokens < kShortest * step.sequences) return {};
  return prompt_attention_->takes(shape, width, q_width) ? std::optional(shape) : std::nullopt;
}

void CudaDecoder::run_attention(const Context& context, const CudaStep& step, const KvCache& cache,
                                std::int64_t layer, const Stream& stream) const {
  const std::int64_t q_width = config_.heads * config_.head_dim;
  const std::int64_t width = q_width + 2 * config_.kv_heads * config_.head_dim;
  const Norms& norms = norms_[static_cast<std::size_t>(layer)];
  const Arena::Scope scope(*context.arena);
  auto* const qkv = context.arena->allocate<std::uint16_t>(stream.m * width);
  auto* const attended = context.arena->allocate<std::uint16_t>(stream.m * q_width);
  const CudaLinearInput input =
      normed(config_, stream.residual, layer == 0 ? nullptr : stream.update, norms.input, stream.residual);
  linear(layer, kQkv).run(context, input, stream.m, qkv);

  const KvPages pages = cache.layer(layer);
  cuda::PagedCache paged;
  paged.dtype = pages.keys.dtype;
  paged.keys = pages.keys.data;
  paged.values = pages.values.data;
  paged.pages = cache.pages();
  paged.page_size = cache.page_size();
  cuda::QkvArgs finish;
  finish.qkv = qkv;
  finish.ld = width;
  finish.m = stream.m;
  finish.heads = config_.heads;
  finish.kv_heads = config_.kv_heads;
  finish.head_dim = config_.head_dim;
  finish.q_norm = config_.qk_norm ? norms.query.data() : nullptr;
  finish.k_norm = config_.qk_norm ? norms.key.data() : nullptr;
  finish.eps = static_cast<float>(config_.rms_eps);
  finish.rotary_table = angles_.as<float>();
  finish.max_positions = config_.max_position;
  finish.positions = step.positions;
  finish.slots = step.slots;
  finish.cache = paged;
  finish.keys_in_place = stream.prompts.has_value();
  cuda_check(cuda::finish_qkv(finish, context.stream), "finish_qkv");

  if (stream.prompts) {
    const Arena::Scope inner(*context.arena);
    PromptArgs attention = stream.places;
    attention.qkv = qkv;
    attention.ld = width;
    attention.out = attended;
    attention.ldout = q_width;
    attention.workspace = context.arena->allocate(static_cast<std::size_t>(kPromptWorkspace));
    prompt_attention_->run(*stream.prompts, attention, context.stream);
  } else {
    const Arena::Scope inner(*context.arena);
    cuda::PagedAttentionArgs attention =
        attention_sizes(config_, stream.m, step.sequences, step.longest_query, step.longest_context);
    attention.q = qkv;
    attention.ldq = width;
    attention.out = attended;
    attention.ldout = q_width;
    attention.cu_seqlens = step.cu_seqlens;
    attention.context_lengths = step.contexts;
    attention.block_tables = step.block_tables;
    attention.max_blocks = step.max_blocks;
    attention.cache = paged;
    attention.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim)));
    attention.workspace_bytes = cuda::paged_attention_workspace(attention);
    if (attention.workspace_bytes > 0)
      attention.workspace = context.arena->allocate(static_cast<std::size_t>(attention.workspace_bytes));
    cuda_check(cuda::paged_attention(attention, context.stream), "paged_attention");
  }
  CudaLinearInput output;
  output.x = attended;
  output.ldx = q_width;
  linear(layer, kOutput).run(context, output, stream.m, stream.update);
}

void CudaDecoder::run_layers(const Context& context, const CudaStep& step, const KvCache& cache,
                             const Stream& stream) const {
  cuda::GatherArgs embed;
  embed.ldtable = config_.hidden;
  if (embedding_.size() > 0) {
    embed.table = embedding_.data();
  } else if (embedding_on_host_.size() > 0) {
    embed.table = embedding_on_host_.data();
  } else {
    const CudaLinear::Rows tied = linears_.back().dense_rows();
    embed.table = tied.data;
    embed.ldtable = tied.ld;
  }
  embed.rows = config_.vocab;
  embed.ids = step.token_ids;
  embed.m = stream.m;
  embed.width = config_.hidden;
  embed.out = stream.residual;
  cuda_check(cuda::gather_rows(embed, context.stream), "gather_rows");
  for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
    run_attention(context, step, cache, layer, stream);
    const Arena::Scope scope(*context.arena);
    auto* const gate_up = context.arena->allocate<std::uint16_t>(stream.m * 2 * config_.intermediate);
    const CudaLinearInput input =
        normed(config_, stream.residual, stream.update,
               norms_[static_cast<std::size_t>(layer)].post_attention, stream.residual);
    linear(layer, kGateUp).run(context, input, stream.m, gate_up);
    CudaLinearInput down;
    down.producer = cuda::Producer::kSiluMul;
    down.x = gate_up;
    down.ldx = 2 * config_.intermediate;
    down.ordered = !linear(layer, kDown).input_order().empty();
    linear(layer, kDown).run(context, down, stream.m, stream.update);
  }
}

// Final norm and head; the last block's update is still to be added.
void CudaDecoder::project(const Context& context, const Stream& stream, const std::int32_t* rows,
                          std::int64_t count, float* logits) const {
  const Arena::Scope scope(*context.arena);
  auto* const residual = context.arena->allocate<std::uint16_t>(count * config_.hidden);
  auto* const update = context.arena->allocate<std::uint16_t>(count * config_.hidden);
  cuda::GatherArgs gather;
  gather.rows = stream.m;
  gather.ldtable = gather.width = config_.hidden;
  gather.ids = rows;
  gather.m = count;
  for (const auto& [from, to] : {std::pair(stream.residual, residual), std::pair(stream.update, update)}) {
    gather.table = from;
    gather.out = to;
    cuda_check(cuda::gather_rows(gather, context.stream), "gather_rows");
  }
  const CudaLinearInput input = normed(config_, residual, update, final_norm_, nullptr);
  linears_.back().run(context, input, count, logits);
}

CudaDecoder::Stream CudaDecoder::start(const Context& context, const CudaStep& step,
                                       const KvCache& cache) const {
  Stream stream;
  stream.m = step.tokens;
  stream.residual = context.arena->allocate<std::uint16_t>(stream.m * config_.hidden);
  stream.update = context.arena->allocate<std::uint16_t>(stream.m * config_.hidden);
  stream.prompts = whole_prompts(step, cache);
  if (!stream.prompts || !stream.prompts->unequal) return stream;
  cuda::PromptOffsetsArgs places;
  places.cu_seqlens = step.cu_seqlens;
  places.sequences = step.sequences;
  places.most = stream.prompts->sequences;
  places.ldout = config_.heads * config_.head_dim;
  places.ld = places.ldout + 2 * config_.kv_heads * config_.head_dim;
  places.lengths = context.arena->allocate<std::int32_t>(places.most);
  places.offsets = context.arena->allocate<std::int64_t>(places.most + 1);
  places.offsets_out = context.arena->allocate<std::int64_t>(places.most + 1);
  cuda_check(cuda::prompt_offsets(places, context.stream), "prompt_offsets");
  stream.places.lengths = places.lengths;
  stream.places.offsets = places.offsets;
  stream.places.offsets_out = places.offsets_out;
  return stream;
}

void CudaDecoder::run(const Context& context, const CudaStep& step, const KvCache& cache,
                      float* logits) const {
  const Arena::Scope scope(*context.arena);
  const Stream stream = start(context, step, cache);
  run_layers(context, step, cache, stream);
  if (step.wanted > 0) project(context, stream, step.wanted_rows, step.wanted, logits);
}

void CudaDecoder::run_blocks(const Context& context, const CudaStep& step, const KvCache& cache,
                             float* logits, std::int64_t block,
                             const std::function<void(std::int64_t, std::int64_t)>& consume) const {
  const Arena::Scope scope(*context.arena);
  const Stream stream = start(context, step, cache);
  run_layers(context, step, cache, stream);
  for (std::int64_t first = 0; first < step.wanted; first += block) {
    const std::int64_t rows = std::min(block, step.wanted - first);
    project(context, stream, step.wanted_rows + first, rows, logits);
    consume(first, rows);
  }
}

}  // namespace slidesparse
