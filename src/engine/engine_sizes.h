#pragma once

#include <cstdint>
#include <functional>

#include "core/device.h"
#include "engine/engine_core.h"
#include "model/config.h"
#include "model/memory_plan.h"
#include "slidesparse/engine/engine.h"

namespace slidesparse {

// Tokens of prompt and output that a sequence may have: EngineOptions::max_model_len, or for 0 the most that
// the model can do. Throws kUsage beyond that.
std::int64_t checked_model_len(const ModelConfig& config, std::int64_t max_model_len);

// The sizes that EngineOptions leave open, by the rules written there. Throws kUsage for those that make no
// sense together, kUnsupported for what the device cannot do.
EngineCoreOptions core_options(const ModelConfig& config, DeviceKind device, const EngineOptions& options);

// ModelOptions::check_memory of an engine with these options: throws kUnsupported, with the bytes and what
// would fit, when model, cache and steps do not fit on the card beside each other.
void check_engine_memory(const ModelConfig& config,
                         const std::function<MemoryDemand(std::int64_t longest_context)>& model,
                         const EngineOptions& options);

}  // namespace slidesparse
