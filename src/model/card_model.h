#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "model/memory_plan.h"
#include "model/model.h"
#include "model/weight_reader.h"

namespace slidesparse {

class CudaDecoder;

// What stands behind Model on a card. Batches are on the host, as Model::forward has them; every call waits
// for its result. (The engine drives the decoder itself and does not wait.)
class CardModel {
 public:
  virtual ~CardModel() = default;
  virtual ModelSummary summary() const = 0;
  virtual std::vector<LinearUse> linears_at(std::int64_t m, std::int64_t wanted) const = 0;
  virtual void forward(const Batch& batch, const KvCache& cache, const TensorView& logits) = 0;
  virtual void forward_blocks(const Batch& batch, const KvCache& cache,
                              const std::function<void(std::int64_t, const TensorView&)>& consume) = 0;
  virtual const CudaDecoder& decoder() const = 0;
};

// Puts the weights on the card; nothing of the reader is needed afterwards. Throws kUnsupported with the
// reason where there is no card or this build has no CUDA code.
std::unique_ptr<CardModel> make_card_model(const ModelConfig& config, WeightReader& reader,
                                           const ModelOptions& options);

// What the model would take there: its weights in the forms that `options` keep, and the scratch of a step in
// which contexts have at most `longest_context` tokens; how many run, how long, is the caller's to fill in.
// Nothing is allocated on the card and no weight is read. Throws as make_card_model does, and kUnsupported
// for linears that nothing can run.
MemoryDemand card_memory(const ModelConfig& config, WeightReader& reader, const ModelOptions& options,
                         std::int64_t longest_context);
// What may still be allocated there, and who holds the rest: other programs, the context, our own buffers.
MemoryBudget card_budget();

// Zeroed memory for a cache on the card.
std::shared_ptr<void> make_card_memory(std::int64_t bytes, const char* name, void** data);

}  // namespace slidesparse
