#include "model/model.h"

#include <algorithm>
#include <set>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/log.h"
#include "io/json.h"
#include "model/card_model.h"
#include "model/decoder.h"
#include "model/head_reader.h"
#include "model/weight_reader.h"

namespace slidesparse {

// Either the CPU's weights, which are views of what the reader holds, or a card's.
struct Model::State {
  std::unique_ptr<WeightReader> reader;
  std::unique_ptr<WeightReader> with_head;  // over it, where the head is to be of another type
  DecoderWeights weights;
  ModelSummary summary;
  std::unique_ptr<CardModel> card;

  State(const ModelConfig& config, std::unique_ptr<WeightReader> source, const ModelOptions& options);
};

namespace {

ModelSummary summarise_weights(const DecoderWeights& weights) {
  const ModelConfig& config = weights.config;
  ModelSummary summary;
  std::set<std::string> patterns, dtypes;
  for (std::size_t i = 0; i + 1 < weights.linears.size(); ++i) {
    const Linear& linear = weights.linears[i];
    summary.linear_bytes += linear.stored_bytes();
    patterns.insert(linear.pattern_words());
    dtypes.emplace(dtype_word(linear.dtype()));
  }
  summary.embedding_bytes = weights.embedding.byte_size();
  const bool shared = config.tied_embeddings && weights.head().dtype() == DType::kBF16;
  summary.head_bytes = shared ? 0 : weights.head().stored_bytes();
  summary.other_bytes = weights.final_norm.byte_size();
  for (const DecoderNorms& norms : weights.norms) {
    summary.other_bytes += norms.input.byte_size() + norms.post_attention.byte_size();
    if (config.qk_norm) summary.other_bytes += norms.query.byte_size() + norms.key.byte_size();
  }
  summary.dtype = dtypes.size() == 1 ? *dtypes.begin() : "mixed";
  summary.pattern = patterns.size() == 1 ? *patterns.begin() : "mixed";
  return summary;
}

}  // namespace

Model::State::State(const ModelConfig& config, std::unique_ptr<WeightReader> source,
                    const ModelOptions& options)
    : reader(std::move(source)) {
  if (options.head) with_head = std::make_unique<HeadReader>(*reader, *options.head);
  WeightReader& all = with_head ? *with_head : *reader;
  if (options.device == DeviceKind::kCuda) {
    card = make_card_model(config, all, options);
    summary = card->summary();
    weights.config = config;
    with_head.reset();
    reader.reset();
    return;
  }
  weights = read_decoder(config, all, options.linear);
  summary = summarise_weights(weights);
}

Model::Model(std::unique_ptr<State> state) : state_(std::move(state)) {}
Model::~Model() = default;
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;

Model Model::load(const std::filesystem::path& directory, const ModelOptions& options) {
  const std::filesystem::path file = directory / "config.json";
  const ModelConfig config = parse_model_config(read_text_file(file), file.string());
  if (!config.unknown_keys.empty()) {
    spdlog::warn("{}: keys that are not known and were ignored: {}", file.string(),
                 fmt::join(config.unknown_keys, ", "));
  }
  return Model(std::make_unique<State>(config, open_weights(directory, config, options.validate), options));
}

Model Model::random(const ModelConfig& config, DType dtype, Pattern pattern, DType head, std::uint64_t seed,
                    const ModelOptions& options, Layout layout, RandomLayers layers) {
  return Model(std::make_unique<State>(
      config, random_weights(config, dtype, pattern, head, seed, layout, layers), options));
}

const ModelConfig& Model::config() const {
  return state_->weights.config;
}
ModelSummary Model::summary() const {
  return state_->summary;
}

std::vector<LinearUse> Model::linears_at(std::int64_t m, std::int64_t wanted) const {
  if (state_->card) return state_->card->linears_at(m, wanted);
  std::vector<LinearUse> uses;
  for (const Linear& linear : state_->weights.linears) {
    const bool head = &linear == &state_->weights.linears.back();
    const std::int64_t rows = head ? wanted : m;
    const DType out = head ? DType::kF32 : DType::kBF16;
    uses.push_back({linear.name(), rows, linear.n(), linear.k(), linear.dtype(), out, linear.pattern(),
                    linear.choice(rows, out), linear.weight_bytes_read(rows, out)});
  }
  return uses;
}

Device Model::device() const {
  return {state_->card ? DeviceKind::kCuda : DeviceKind::kCpu, 0};
}
const CudaDecoder* Model::cuda_decoder() const {
  return state_->card ? &state_->card->decoder() : nullptr;
}

std::int64_t Model::workspace_bytes(std::int64_t tokens, std::int64_t sequences) const {
  // The most that this many tokens can take: equally long sequences that start at position 0, all logits
  // wanted.
  const std::int64_t length =
      ceil_div(std::max<std::int64_t>(1, tokens), std::max<std::int64_t>(1, sequences));
  std::vector<std::int32_t> offsets{0}, contexts;
  for (std::int64_t begin = 0; begin < tokens; begin += length) {
    contexts.push_back(static_cast<std::int32_t>(std::min(length, tokens - begin)));
    offsets.push_back(offsets.back() + contexts.back());
  }
  return decoder_workspace(state_->weights, {offsets, contexts, {}, 0}, tokens);
}

namespace {

void prepare_step(const Context& context, const DecoderWeights& weights, const Batch& batch,
                  const KvCache& cache) {
  require(context.arena != nullptr, "forward needs an arena");
  check_step(weights.config, batch, cache);
  if (context.arena->used() == 0) {
    context.arena->reserve(static_cast<std::size_t>(decoder_workspace(
        weights, attention_batch(batch), static_cast<std::int64_t>(batch.wanted_rows.size()))));
  }
}

}  // namespace

void Model::forward(const Context& context, const Batch& batch, const KvCache& cache,
                    const TensorView& logits) const {
  const auto wanted = static_cast<std::int64_t>(batch.wanted_rows.size());
  require(logits.dtype == DType::kF32 && logits.rank() == 2 && logits.dim(0) == wanted &&
              logits.dim(1) == config().vocab,
          "forward: {} wanted rows, vocabulary {}, logits {}", wanted, config().vocab,
          logits.shape.to_string());
  if (state_->card) {
    check_step(config(), batch, cache);
    state_->card->forward(batch, cache, logits);
    return;
  }
  prepare_step(context, state_->weights, batch, cache);
  run_decoder(context, state_->weights, batch, cache, &logits, {});
}

void Model::forward_blocks(const Context& context, const Batch& batch, const KvCache& cache,
                           const std::function<void(std::int64_t, const TensorView&)>& consume) const {
  if (state_->card) {
    check_step(config(), batch, cache);
    state_->card->forward_blocks(batch, cache, consume);
    return;
  }
  prepare_step(context, state_->weights, batch, cache);
  run_decoder(context, state_->weights, batch, cache, nullptr, consume);
}

}  // namespace slidesparse
