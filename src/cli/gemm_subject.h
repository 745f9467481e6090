#pragma once

#include <optional>
#include <string>
#include <vector>

#include "gemm/bench.h"
#include "model/config.h"

namespace slidesparse {

// What `tune` and `bench gemm` are about, as given on the command line: one of the first three.
struct GemmSubjectOptions {
  std::string directory, model, shape;
  std::vector<std::string> dtypes, patterns;
  std::int64_t layer = 0;        // of a directory
  std::string layout = "slide";  // of random weights with a pattern: slide or split
};

struct GemmSubject {
  std::vector<GemmShape> shapes;  // a model's: the fused linears of one layer
  std::vector<DType> dtypes;
  std::vector<Pattern> patterns;
  std::int64_t layers = 1;  // of the model
  // The linear behind the last layer, whatever its dtype; nothing without a model.
  std::optional<GemmShape> head{};
};
// A directory's shapes have its own weights, those of `layer`. `command` is for messages. Throws kUsage or
// kInput.
GemmSubject gemm_subject(const std::string& command, const GemmSubjectOptions& options);

// The configuration of a preset; throws kUsage with the list.
ModelConfig known_model(const std::string& name);

}  // namespace slidesparse
