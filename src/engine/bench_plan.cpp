#include "engine/bench_plan.h"

#include <algorithm>

#include "core/fail.h"
#include "core/log.h"
#include "engine/weight_plan.h"
#include "model/card_model.h"

namespace slidesparse {
namespace {

// The most that a bench of `model` takes at once.
std::int64_t most_bytes(const MemoryDemand& model, const BenchModelOptions& bench) {
  std::int64_t most = 0;
  for (const std::int64_t m : bench.m)
    most = std::max(most, bytes_of(plan_memory(bench_demand(model, bench, m))));
  return most;
}

}  // namespace

PlannedModel plan_bench_model(const std::string& name, const ModelConfig& config, WeightReader& reader,
                              const ModelOptions& options, const BenchModelOptions& bench,
                              const MemoryBudget& budget) {
  PlannedModel model;
  model.name = name;
  model.options = options;
  if (options.device != DeviceKind::kCuda) return model;
  std::int64_t longest = 0;
  for (const std::int64_t m : bench.m) longest = std::max(longest, bench_length(bench.phase, m, bench));
  model.demand = plan_weights(name, config, reader, model.options, longest, budget,
                              [&](const MemoryDemand& demand) { return most_bytes(demand, bench); });
  return model;
}

ModelOptions reference_options(const ModelOptions& options) {
  ModelOptions reference;
  reference.head = options.head;
  reference.validate = options.validate;
  return reference;
}

bool fit_together(const std::vector<PlannedModel>& models, const BenchModelOptions& bench) {
  if (models.empty() || models.front().options.device != DeviceKind::kCuda) return true;
  std::int64_t bytes = 0;
  for (const PlannedModel& model : models) bytes += most_bytes(model.demand, bench);
  return bytes <= card_budget().free();
}

void fit_alone(PlannedModel& model, const BenchModelOptions& bench) {
  const MemoryBudget budget = card_budget();
  model.fits.clear();
  for (const std::int64_t m : bench.m) {
    try {
      model.fits.push_back(fit_bench(model.demand, budget, bench, m));
    } catch (const Error& error) {
      fail_with(error.facts() != nullptr ? *error.facts() : ErrorFacts(), error.kind(), "{}: {}", model.name,
                error.what());
    }
    if (!model.fits.back().note.empty()) spdlog::info("{} M={}: {}", model.name, m, model.fits.back().note);
  }
}

}  // namespace slidesparse
