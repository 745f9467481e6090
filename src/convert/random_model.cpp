#include "convert/random_model.h"

#include <algorithm>
#include <set>
#include <vector>

#include "convert/directory_job.h"
#include "convert/tiny_tokenizer.h"
#include "convert/work.h"
#include "core/buffer.h"
#include "core/fail.h"
#include "core/interrupt.h"
#include "core/numeric.h"
#include "core/progress.h"
#include "core/random.h"
#include "core/text.h"
#include "core/version.h"
#include "io/digest.h"
#include "io/json.h"
#include "model/presets.h"
#include "model/weights.h"

namespace slidesparse {
namespace {

constexpr float kDeviation = 0.02f;
constexpr std::int64_t kBlock = 1 << 19;  // elements made at a time by one worker

// Different tensors draw from different streams (FNV-1a of the name).
std::uint64_t tensor_seed(std::uint64_t seed, const std::string& name) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  for (const char letter : name) hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3ull;
  return random_bits(seed, hash);
}

bool is_norm(const std::string& name) {
  return name.ends_with("norm.weight");
}

void fill_block(DType dtype, std::uint64_t seed, std::int64_t begin, std::int64_t count, bool ones,
                void* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = ones ? 1.0f : kDeviation * random_normal(seed, static_cast<std::uint64_t>(begin + i));
    if (dtype == DType::kF32) {
      static_cast<float*>(out)[i] = value;
    } else {
      static_cast<std::uint16_t*>(out)[i] =
          dtype == DType::kBF16 ? float_to_bf16(value) : float_to_f16(value);
    }
  }
}

std::vector<TensorEntry> all_tensors(const ModelConfig& config) {
  const WeightTable table = weight_table(config);
  std::vector<TensorEntry> tensors;
  for (const PlainSpec& plain : table.plain) tensors.push_back({plain.name, config.dtype, plain.shape, 0, 0});
  for (const FusedGroup& group : table.groups) {
    for (const LinearSpec& linear : group.members) {
      tensors.push_back({linear.name + ".weight", config.dtype, {linear.n, linear.k}, 0, 0});
    }
  }
  if (!config.tied_embeddings) {
    tensors.push_back({table.head + ".weight", config.dtype, {config.vocab, config.hidden}, 0, 0});
  }
  return tensors;
}

std::string identity_of(const std::string& config_json, const RandomModelOptions& options) {
  const Json identity = {{"job", "random-model"},
                         {"tool_version", kVersion},
                         {"config_sha256", sha256_hex(config_json)},
                         {"seed", options.seed},
                         {"shard_bytes", options.shard_bytes}};
  return identity.dump();
}

void write_model(const std::string& config_json, const RandomModelOptions& options) {
  const ModelConfig config = parse_model_config(config_json, "config.json");
  std::set<std::int64_t> special(config.eos_tokens.begin(), config.eos_tokens.end());
  if (config.bos_token >= 0) special.insert(config.bos_token);
  const auto tokens = static_cast<std::int64_t>(256 + special.size());
  if (config.vocab < tokens || (!special.empty() && *special.rbegin() >= config.vocab)) {
    fail(ErrorKind::kUsage, "a vocabulary of {} has no room for 256 bytes and the special tokens {}",
         config.vocab, fmt::join(special, ", "));
  }

  DirectoryPlan plan;
  plan.target = options.target;
  plan.force = options.force;
  plan.identity_json = identity_of(config_json, options);
  plan.tensors = all_tensors(config);
  plan.side_bytes = 1 << 20;
  plan.shard_bytes = options.shard_bytes;
  const std::vector<TensorEntry> tensors = plan.tensors;
  DirectoryJob job(std::move(plan));
  if (job.published()) return;

  const auto size = static_cast<std::int64_t>(dtype_size(config.dtype));
  std::int64_t total = 0;
  for (const TensorEntry& tensor : tensors) total += tensor.shape.count() * size;
  Progress progress("random model", total, Progress::Unit::kBytes, options.quiet);
  std::vector<Buffer> buffers;
  buffers.reserve(static_cast<std::size_t>(thread_count()));
  for (int i = 0; i < thread_count(); ++i) buffers.emplace_back(static_cast<std::size_t>(kBlock * size));
  for (const TensorEntry& tensor : tensors) {
    const std::int64_t count = tensor.shape.count();
    if (job.finished(tensor.name)) {
      progress.skip(count * size);
      continue;
    }
    const std::uint64_t seed = tensor_seed(options.seed, tensor.name);
    run_tasks((count + kBlock - 1) / kBlock, [&](std::int64_t block, int worker) {
      check_interrupt("run the same command again to go on");
      const std::int64_t begin = block * kBlock;
      const std::int64_t part = std::min(kBlock, count - begin);
      std::byte* out = buffers[static_cast<std::size_t>(worker)].data();
      fill_block(config.dtype, seed, begin, part, is_norm(tensor.name), out);
      job.write(tensor.name, begin * size, {out, static_cast<std::size_t>(part * size)});
    });
    job.finish_item(tensor.name, "{}", count * size);
    progress.advance(count * size);
  }
  job.write_side_file("tokenizer.json", tiny_tokenizer_json(special));
  job.publish(config_json);
}

}  // namespace

void random_model(const ModelConfig& config, const RandomModelOptions& options) {
  ModelConfig shortened = config;
  if (options.layers) shortened.layers = *options.layers;
  write_model(model_config_json(shortened), options);
}

void random_model(std::string_view preset, const RandomModelOptions& options) {
  write_model(preset_config_json(preset, options.layers), options);
}

}  // namespace slidesparse
