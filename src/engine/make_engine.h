#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "io/tokenizer/tokenizer.h"
#include "model/model.h"
#include "slidesparse/engine/engine.h"

namespace slidesparse {

// What Engine::load opens.
struct EngineParts {
  std::shared_ptr<const Model> model;
  std::optional<Tokenizer> tokenizer;     // none: prompts are token ids
  std::vector<std::int64_t> stop_tokens;  // the model's own end tokens
};

// The engine of a model that is there already. Throws as Engine::load does for the sizes.
Engine make_engine(EngineParts parts, const EngineOptions& options);

}  // namespace slidesparse
