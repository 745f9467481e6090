#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/bench_fit.h"
#include "model/model.h"
#include "model/weight_reader.h"

namespace slidesparse {

// A model of a bench before it is loaded.
struct PlannedModel {
  std::string name;
  std::function<Model(const ModelOptions&)> load;
  ModelOptions options;
  MemoryDemand demand;         // of a model on a card
  std::vector<BenchFit> fits;  // by M of the bench; empty: each in one step
};

// Decides, before anything is on a card, which forms of the weights stay there: those that were asked for or,
// where a largest step does not fit beside them, fewer. `options` says where the model runs; on the CPU there
// is nothing to decide. `budget` is the card's before anything of the bench is on it.
PlannedModel plan_bench_model(const std::string& name, const ModelConfig& config, WeightReader& reader,
                              const ModelOptions& options, const BenchModelOptions& bench,
                              const MemoryBudget& budget);

// How the reference of a model that runs as `options` say is loaded: on the CPU, by rule, the same weights.
ModelOptions reference_options(const ModelOptions& options);

// Whether all of them fit beside each other at every M, so that they can be timed in turn.
bool fit_together(const std::vector<PlannedModel>& models, const BenchModelOptions& bench);
// How each M is run with that model alone on the card. Throws kUnsupported, with the bytes, if one cannot be.
void fit_alone(PlannedModel& model, const BenchModelOptions& bench);

}  // namespace slidesparse
