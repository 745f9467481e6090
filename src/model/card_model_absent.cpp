// A build without CUDA code has no models on cards.
#include "core/cuda/status.h"
#include "core/fail.h"
#include "model/card_model.h"

namespace slidesparse {

std::unique_ptr<CardModel> make_card_model(const ModelConfig&, WeightReader&, const ModelOptions&) {
  fail(ErrorKind::kUnsupported, "--device cuda: {}", cuda_status().reason);
}

MemoryDemand card_memory(const ModelConfig&, WeightReader&, const ModelOptions&, std::int64_t) {
  fail(ErrorKind::kUnsupported, "--device cuda: {}", cuda_status().reason);
}

MemoryBudget card_budget() {
  fail(ErrorKind::kUnsupported, "memory of a card: {}", cuda_status().reason);
}

std::shared_ptr<void> make_card_memory(std::int64_t, const char*, void**) {
  fail(ErrorKind::kUnsupported, "KV cache on a card: {}", cuda_status().reason);
}

}  // namespace slidesparse
