#pragma once

#include "engine/step_runner.h"

namespace slidesparse {

// For a model on a card: make_step_runner() calls it.
std::unique_ptr<StepRunner> make_card_step_runner(const Model& model, const RunnerLimits& limits);

}  // namespace slidesparse
