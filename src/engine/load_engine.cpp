#include <algorithm>
#include <filesystem>

#include "core/fail.h"
#include "engine/engine_sizes.h"
#include "engine/generate.h"
#include "engine/make_engine.h"
#include "model/placement.h"
#include "model/presets.h"

namespace slidesparse {
namespace {

// Numbers of tokens by whose times a card decides which weights to keep.
std::vector<std::int64_t> step_sizes(const EngineOptions& options) {
  std::vector<std::int64_t> sizes{1, options.deterministic ? 1 : options.max_num_seqs,
                                  options.max_num_batched_tokens};
  for (std::int64_t& size : sizes) size = std::max<std::int64_t>(1, size);
  std::ranges::sort(sizes);
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  return sizes;
}

Model random_model(const ModelSource& source, const ModelOptions& options) {
  if (source.dtype != DType::kI8 && source.dtype != DType::kF8E4M3 && source.dtype != DType::kBF16)
    fail(ErrorKind::kUsage, "random weights in {}: possible are I8, F8_E4M3, BF16", dtype_name(source.dtype));
  if (source.layers < 0) fail(ErrorKind::kUsage, "{} layers: 0 (all) or more are needed", source.layers);
  std::optional<std::int64_t> layers;
  if (source.layers > 0) layers = source.layers;
  const ModelConfig config =
      parse_model_config(preset_config_json(source.preset, layers), "preset " + source.preset);
  return Model::random(config, source.dtype, source.pattern, options.head.value_or(DType::kBF16), source.seed,
                       options);
}

}  // namespace

Engine Engine::load(const ModelSource& source, const EngineOptions& options) {
  if (source.directory.empty() == source.preset.empty())
    fail(ErrorKind::kUsage, "a model is a directory or a preset: give one of both");
  Placement placement;
  placement.device = source.device;
  placement.backends = source.backends;
  placement.cache = source.tuning_cache;
  placement.weights = source.weights;
  placement.head = source.head;
  placement.memory_limit = source.memory_limit;
  ModelOptions made = model_options(placement, step_sizes(options));
  made.check_memory = [options](const ModelConfig& config, const auto& model) {
    check_engine_memory(config, model, options);
  };
  const bool files = !source.directory.empty();

  EngineParts parts;
  // Before the weights, which take longer.
  std::filesystem::path tokenizer = source.tokenizer;
  if (tokenizer.empty() && files) {
    tokenizer = std::filesystem::path(source.directory) / "tokenizer.json";
    if (!std::filesystem::exists(tokenizer)) tokenizer.clear();
  }
  if (!tokenizer.empty()) parts.tokenizer = Tokenizer::from_file(tokenizer);
  parts.model =
      std::make_shared<const Model>(files ? Model::load(source.directory, made) : random_model(source, made));
  const ModelConfig& config = parts.model->config();
  parts.stop_tokens = files ? stop_tokens_of(config, source.directory) : config.eos_tokens;
  return make_engine(std::move(parts), options);
}

}  // namespace slidesparse
