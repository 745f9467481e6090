#pragma once

#include <string>
#include <vector>

#include "core/device.h"
#include "gemm/bench.h"
#include "model/config.h"

namespace slidesparse {

// What `tune` and `bench gemm` are about, as given on the command line: one of the first three.
struct GemmSubjectOptions {
  std::string directory, model, shape;
  std::vector<std::string> dtypes, patterns;
  std::int64_t layer = 0;  // of a directory
};

struct GemmSubject {
  std::vector<GemmShape> shapes;  // a model's: the fused linears of one layer
  std::vector<DType> dtypes;
  std::vector<Pattern> patterns;
  std::int64_t layers = 1;  // of the model
};
// A directory's shapes have its own weights, those of `layer`. `command` is for messages. Throws kUsage or
// kInput.
GemmSubject gemm_subject(const std::string& command, const GemmSubjectOptions& options);

// The configuration of a preset; throws kUsage with the list.
ModelConfig known_model(const std::string& name);

// "cpu", "cuda", or empty: cuda where there is a card. Throws kUsage for other words, kUnsupported with the
// reason when cuda is asked for and not to be had.
DeviceKind parse_device_option(const std::string& text);

// Runs kernels that might bring a process down in another one ("slidesparse probe-kernel"): why each must not
// run here, empty for those that may.
std::vector<std::string> probe_kernels(const TrackShape& shape, const std::vector<RaceEntrant>& entrants);

// $XDG_CACHE_HOME/slidesparse/tuning.json or ~/.cache/...; throws kUsage when neither is known.
std::string default_tuning_cache();

}  // namespace slidesparse
