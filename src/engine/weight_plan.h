#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "engine/evaluate.h"
#include "model/memory_plan.h"
#include "model/model.h"
#include "model/weight_reader.h"

// Which forms of a model's weights a card keeps, decided before anything is there.
namespace slidesparse {

// Keeps in `options` the forms that were asked for or, where what runs does not fit beside them, fewer: the
// next policy of which `bytes` says that all of it fits, else the smallest one. Returns what the model takes
// then, for contexts of up to `longest` tokens. `name` is for a message.
MemoryDemand plan_weights(const std::string& name, const ModelConfig& config, WeightReader& reader,
                          ModelOptions& options, std::int64_t longest, const MemoryBudget& budget,
                          const std::function<std::int64_t(const MemoryDemand& model)>& bytes);

// What an evaluation takes; `model` says what the model does.
MemoryDemand eval_demand(const MemoryDemand& model, const EvalSizes& sizes);

// Decides the forms for evaluations that run one after another, and throws kUnsupported, with the bytes and
// what would fit, where one does not fit beside the smallest. On the CPU there is nothing to decide.
void plan_evaluation(const std::string& name, const ModelConfig& config, WeightReader& reader,
                     ModelOptions& options, std::span<const EvalSizes> sizes, const MemoryBudget& budget);

}  // namespace slidesparse
