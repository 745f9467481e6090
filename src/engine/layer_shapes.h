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

// The linear from the last layer to the logits, "NAME/head".
GemmShape head_shape(const ModelConfig& config, const std::string& name);
// How the tuner takes it: never pruned, FP32 outputs, for the rows of a step whose logits are wanted.
TrackShape head_track(const GemmShape& head, DType dtype);

// Runs kernels that might bring a process down in another one ("slidesparse probe-kernel"): why each must not
// run here, empty for those that may.
std::vector<std::string> probe_kernels(const TrackShape& shape, const std::vector<RaceEntrant>& entrants);

}  // namespace slidesparse
