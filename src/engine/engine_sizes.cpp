#include "engine/engine_sizes.h"

#include <algorithm>

#include "core/checked.h"
#include "core/fail.h"
#include "model/card_model.h"
#include "model/model.h"

namespace slidesparse {
namespace {

// KV cache that is taken unasked: enough for 16,384 tokens of a 7B model with grouped heads, and what any
// machine that runs such a model has to spare.
constexpr std::int64_t kUnaskedKvBytes = std::int64_t{2} << 30;

constexpr std::int64_t kCardPageTokens = 16;  // kernels/cuda/paged_attention.h

}  // namespace

std::int64_t checked_model_len(const ModelConfig& config, std::int64_t max_model_len) {
  const std::int64_t most = config.max_position + 1;  // the last token is drawn but never fed
  if (max_model_len == 0) return most;
  if (max_model_len < 2 || max_model_len > most) {
    fail(ErrorKind::kUsage, "max_model_len {}: a model of {} positions allows 2 to {} tokens", max_model_len,
         config.max_position, most);
  }
  return max_model_len;
}

EngineCoreOptions core_options(const ModelConfig& config, DeviceKind device, const EngineOptions& options) {
  if (options.max_num_seqs < 1 || options.max_num_batched_tokens < options.max_num_seqs) {
    fail(ErrorKind::kUsage,
         "max_num_seqs {}, max_num_batched_tokens {}: at least 1 sequence and a token of a step for each",
         options.max_num_seqs, options.max_num_batched_tokens);
  }
  if (options.page_size < 1 || options.kv_pages < 0) {
    fail(ErrorKind::kUsage,
         "page_size {}, kv_pages {}: at least 1 token a page, and 0 (chosen) or more pages",
         options.page_size, options.kv_pages);
  }
  if (device == DeviceKind::kCuda && options.page_size % kCardPageTokens != 0) {
    fail(ErrorKind::kUsage, "page_size {}: on a card a multiple of {}", options.page_size, kCardPageTokens);
  }
  if (device == DeviceKind::kCpu && options.kv_cache_dtype != DType::kBF16) {
    fail(ErrorKind::kUnsupported, "kv_cache_dtype {}: on a card only; the CPU keeps BF16",
         dtype_name(options.kv_cache_dtype));
  }

  EngineCoreOptions core;
  core.scheduler.max_sequences = options.deterministic ? 1 : options.max_num_seqs;
  core.scheduler.max_batched_tokens = options.max_num_batched_tokens;
  core.scheduler.max_context = checked_model_len(config, options.max_model_len);
  core.page_size = options.page_size;
  core.kv_dtype = options.kv_cache_dtype;
  // On the CPU a step is done when it is started: nothing to overlap with.
  core.overlap = device == DeviceKind::kCuda;

  const std::int64_t each = ceil_div(core.scheduler.max_context - 1, options.page_size);
  core.pages = options.kv_pages;
  if (core.pages == 0) {
    const std::int64_t fit = std::max<std::int64_t>(
        1, kUnaskedKvBytes / KvCache::bytes_per_page(config, options.page_size, options.kv_cache_dtype));
    core.pages = fit / each >= core.scheduler.max_sequences ? each * core.scheduler.max_sequences : fit;
    if (options.max_model_len != 0) core.pages = std::max(core.pages, each);
  }
  if (options.max_model_len != 0 && core.pages < each) {
    fail(ErrorKind::kUsage,
         "kv_pages {}: a sequence of max_model_len {} tokens takes {} pages of {}; give that many, or "
         "max_model_len {}",
         core.pages, options.max_model_len, each, options.page_size, core.pages * options.page_size + 1);
  }
  return core;
}

void check_engine_memory(const ModelConfig& config,
                         const std::function<MemoryDemand(std::int64_t longest_context)>& model,
                         const EngineOptions& options) {
  const EngineCoreOptions core = core_options(config, DeviceKind::kCuda, options);
  MemoryDemand demand = model(core.scheduler.max_context - 1);
  demand.kv_dtype = core.kv_dtype;
  demand.page_size = core.page_size;
  demand.sequences = core.scheduler.max_sequences;
  demand.length = ceil_div(core.pages * core.page_size, demand.sequences);
  demand.step_tokens = core.scheduler.max_batched_tokens;
  check_memory(demand, card_budget());
}

}  // namespace slidesparse
