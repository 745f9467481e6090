#include "engine/weight_plan.h"

#include <algorithm>

#include "core/checked.h"
#include "core/fail.h"
#include "core/log.h"
#include "core/text.h"
#include "model/card_model.h"

namespace slidesparse {

static_assert(WeightPolicy::kSmallest < WeightPolicy::kBalanced &&
              WeightPolicy::kBalanced < WeightPolicy::kFastest);

MemoryDemand plan_weights(const std::string& name, const ModelConfig& config, WeightReader& reader,
                          ModelOptions& options, std::int64_t longest, const MemoryBudget& budget,
                          const std::function<std::int64_t(const MemoryDemand&)>& bytes) {
  const WeightPolicy wanted = options.weights;
  const std::int64_t free = budget.free();
  MemoryDemand demand;
  std::int64_t asked = 0;
  for (const WeightPolicy policy :
       {WeightPolicy::kFastest, WeightPolicy::kBalanced, WeightPolicy::kSmallest}) {
    if (policy > wanted) continue;  // never more than was asked for
    options.weights = policy;
    demand = card_memory(config, reader, options, longest);
    const std::int64_t all = bytes(demand);
    if (asked == 0) asked = all;
    if (all <= free) break;
  }
  if (options.weights != wanted) {
    spdlog::info("{}: --weights {} takes {}, {} are free: {}", name, weight_policy_name(wanted),
                 format_bytes(static_cast<double>(asked)), format_bytes(static_cast<double>(free)),
                 weight_policy_name(options.weights));
  }
  return demand;
}

MemoryDemand eval_demand(const MemoryDemand& model, const EvalSizes& sizes) {
  MemoryDemand demand = model;
  demand.page_size = sizes.page_size;
  demand.sequences = sizes.sequences;
  // As long as makes the pages up: those of endings are few, of contexts many.
  demand.length = ceil_div(sizes.pages * sizes.page_size, sizes.sequences);
  demand.step_tokens = sizes.step_tokens;
  demand.logit_rows = sizes.logit_rows;
  return demand;
}

void plan_evaluation(const std::string& name, const ModelConfig& config, WeightReader& reader,
                     ModelOptions& options, std::span<const EvalSizes> sizes, const MemoryBudget& budget) {
  if (options.device != DeviceKind::kCuda) return;
  std::int64_t longest = 1;
  for (const EvalSizes& one : sizes) longest = std::max(longest, one.longest);
  const MemoryDemand model =
      plan_weights(name, config, reader, options, longest, budget, [&](const MemoryDemand& demand) {
        std::int64_t most = 0;
        for (const EvalSizes& one : sizes)
          most = std::max(most, bytes_of(plan_memory(eval_demand(demand, one))));
        return most;
      });
  for (const EvalSizes& one : sizes) {
    const MemoryDemand demand = eval_demand(model, one);
    const std::string shortfall = memory_shortfall(demand, budget);
    if (!shortfall.empty())
      fail_with(memory_facts(demand, budget), ErrorKind::kUnsupported, "{}: {}", name, shortfall);
  }
}

}  // namespace slidesparse
