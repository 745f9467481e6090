#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/linear_options.h"
#include "engine/evaluate.h"
#include "model/model.h"

namespace slidesparse {

// What a model is measured on: a text, HellaSwag's tasks, or both.
struct EvaluationWork {
  std::optional<std::string> text;
  std::vector<HellaSwagTask> tasks;
  PerplexityOptions perplexity;
  LinearCommand linear;
};

struct Evaluation {
  ModelSummary summary;
  std::int64_t text_tokens = 0;
  std::optional<PerplexityResult> perplexity;
  std::optional<HellaSwagResult> hellaswag;
};

// Loads the model in `directory`, on a card after its memory was planned, and measures it, with progress
// under `title`. Throws what loading, planning and measuring throw.
Evaluation evaluate_directory(const std::string& directory, const EvaluationWork& work,
                              const std::string& title, bool quiet);

}  // namespace slidesparse
