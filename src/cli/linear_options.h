#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/model.h"

namespace slidesparse {

// How commands that run a model choose the kernels of its linears, and whether they say why.
struct LinearCommand {
  std::vector<std::string> backends;
  std::string cache;  // file that `tune --device cpu` wrote; empty: kernels are chosen by rule
  bool explain = false;
};

// --backend, --cache and --explain.
void add_linear_options(CLI::App& app, LinearCommand& command);
// Throws kUsage and kInput for a backend or file that is none.
LinearOptions linear_options(const LinearCommand& command);

// For each kind of linear (equal shape, dtype and pattern) and M: the kernel, why, measured time and share of
// this machine's limit where there is one, the runner-up, why not the others.
std::string explain_linears(const Model& model, std::span<const std::int64_t> ms);
// The same to standard error, if it was asked for.
void print_explanation(const LinearCommand& command, const Model& model, std::span<const std::int64_t> ms);

}  // namespace slidesparse
