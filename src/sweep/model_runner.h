#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "engine/bench_plan.h"
#include "model/model.h"
#include "sweep/messages.h"

namespace slidesparse {

// Runs the cells that need a whole model: prefill, decode, eval. The model stays loaded from cell to cell, as
// long as they want it in the same form. Throws Error for what cannot be done.
class ModelRunner {
 public:
  // `loading` is called with true before something long that is not the cell itself, with false behind it.
  ModelRunner(const WorkerSetup& setup, std::function<void(bool)> loading)
      : setup_(setup), loading_(std::move(loading)) {}

  void bench(const CellOrder& order, CellResult& result);
  void evaluate(const CellOrder& order, CellResult& result);

 private:
  void prepare(const CellOrder& order);
  PlannedModel plan(const Cell& cell, const ModelOptions& options, const BenchModelOptions& bench);
  Model make(const Cell& cell, const ModelOptions& options) const;
  const Model& load(const Cell& cell, const ModelOptions& options);
  // Of the cells' weights and keys and values of that type, made once.
  std::shared_ptr<const GreedyReference> reference(const Cell& cell, const ModelOptions& options, DType kv);

  const WorkerSetup& setup_;
  std::function<void(bool)> loading_;
  std::optional<ModelOptions> options_;  // of every cell of this process
  ModelConfig config_;
  MemoryBudget budget_;  // of the card while nothing of ours is on it
  std::unique_ptr<WeightReader> shapes_;
  std::map<DType, std::shared_ptr<const GreedyReference>> references_;  // by type of keys and values
  std::optional<Model> model_;
  WeightPolicy loaded_ = WeightPolicy::kFastest;
  bool validated_ = false;
  double load_seconds_ = 0;
};

// Where kernels of a cell may come from, in the words of Placement; empty: any.
std::vector<std::string> backends_of(const Cell& cell);

}  // namespace slidesparse
