// A build without CUDA code has no models on cards.
#include "core/fail.h"
#include "engine/card_step_runner.h"

namespace slidesparse {

std::unique_ptr<StepRunner> make_card_step_runner(const Model&, const RunnerLimits&) {
  fail(ErrorKind::kUnsupported, "this build has no CUDA code");
}

}  // namespace slidesparse
