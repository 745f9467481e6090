#include "model/placement.h"

#include <cstdlib>
#include <filesystem>
#include <memory>

#include "core/cuda/memory.h"
#include "core/cuda/status.h"
#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/text.h"
#include "gemm/backend.h"
#include "gemm/tuning_cache.h"

namespace slidesparse {
namespace {

std::string bytes_text(std::int64_t bytes) {
  return format_bytes(static_cast<double>(bytes));
}

// Our buffers get what the limit leaves beside what the driver holds already, the context above all.
void limit_memory(std::int64_t limit, bool card) {
  if (!card) fail(ErrorKind::kUsage, "--memory-limit {}: goes with a model on a card", bytes_text(limit));
  const std::int64_t taken = cuda_status().devices.front().memory_bytes - free_device_memory();
  const std::int64_t left = limit - taken - kOthersBytes;
  if (left <= 0) {
    fail(ErrorKind::kUsage, "--memory-limit {}: {} are taken already, and {} are kept for libraries",
         bytes_text(limit), bytes_text(taken), bytes_text(kOthersBytes));
  }
  set_device_memory_limit(left);
}

}  // namespace

DeviceKind parse_device(const std::string& text) {
  if (text == "cpu") return DeviceKind::kCpu;
  if (text.empty()) return cuda_status().available ? DeviceKind::kCuda : DeviceKind::kCpu;
  if (text != "cuda") fail(ErrorKind::kUsage, "--device {}: possible are cpu, cuda", printable(text, 40));
  if (!cuda_status().available)
    fail(ErrorKind::kUnsupported, "--device cuda: {}; --device cpu works", cuda_status().reason);
  return DeviceKind::kCuda;
}

std::optional<DType> parse_head(const std::string& text) {
  if (text.empty()) return {};
  for (const DType dtype : {DType::kBF16, DType::kI8, DType::kF8E4M3}) {
    if (text == dtype_word(dtype)) return dtype;
  }
  fail(ErrorKind::kUsage, "--head {}: possible are bf16, int8, fp8", printable(text, 40));
}

std::string default_tuning_cache() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache != '\0') return std::string(cache) + "/slidesparse/tuning.json";
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0')
    fail(ErrorKind::kUsage, "neither XDG_CACHE_HOME nor HOME is set: say where with --cache FILE");
  return std::string(home) + "/.cache/slidesparse/tuning.json";
}

ModelOptions model_options(const Placement& placement, std::vector<std::int64_t> ms) {
  ModelOptions options;
  options.device = parse_device(placement.device);
  options.weights = parse_weight_policy(placement.weights);
  options.head = parse_head(placement.head);
  options.ms = std::move(ms);
  if (placement.attention != "auto" && placement.attention != "own")
    fail(ErrorKind::kUsage, "--attention {}: possible are auto, own", printable(placement.attention, 40));
  options.attention = placement.attention == "own" ? AttentionChoice::kOwn : AttentionChoice::kAuto;
  const bool card = options.device == DeviceKind::kCuda;
  if (placement.memory_limit != 0) limit_memory(placement.memory_limit, card);
  options.linear.backends = placement.backends;
  for (const std::string& name : placement.backends) {
    if (backend_named(name).device() != options.device && name != "reference") {
      fail(ErrorKind::kUsage, "--backend {}: does not run on {}", name, card ? "a card" : "the CPU");
    }
  }
  std::string cache = placement.cache;
  if (cache.empty() && card && std::filesystem::exists(default_tuning_cache()))
    cache = default_tuning_cache();
  if (cache.empty()) return options;
  if (!std::filesystem::exists(cache)) {
    fail_input("--cache {}: there is no such file; `slidesparse tune --device {} --cache {}` makes it",
               printable(cache, 200), card ? "cuda" : "cpu", printable(cache, 200));
  }
  options.linear.measured =
      std::make_shared<TuningCache>(TuningCache::load(cache, tuning_machine(options.device)));
  return options;
}

}  // namespace slidesparse
