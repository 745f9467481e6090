#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gemm/bench.h"
#include "gemm/race_track.h"
#include "model/config.h"
#include "model/weight_reader.h"

// What tuning and benches of single linears need of a model.
namespace slidesparse {

// The fused linears of one layer, named "NAME/qkv": what every layer repeats. With `reader`, and its weights.
std::vector<GemmShape> layer_shapes(const ModelConfig& config, const std::string& name, std::int64_t layer,
                                    const std::shared_ptr<WeightReader>& reader);

// Runs kernels that might bring a process down in another one ("slidesparse probe-kernel"): why each must not
// run here, empty for those that may.
std::vector<std::string> probe_kernels(const TrackShape& shape, const std::vector<RaceEntrant>& entrants);

}  // namespace slidesparse
