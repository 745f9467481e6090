#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/model.h"

namespace slidesparse {

// Where commands run a model, how they choose the kernels of its linears, and whether they say why.
struct LinearCommand {
  std::string device;  // "cpu", "cuda", or empty: cuda where there is a card
  std::vector<std::string> backends;
  // File that `tune` wrote. Empty: on a card the default one if it is there, on the CPU none (kernels are
  // chosen by rule, so that figures repeat).
  std::string cache;
  std::string weights = "fastest";
  std::string memory_limit;  // "22.4GiB"; empty: what the card has
  bool explain = false;
};

// --device, --backend, --cache, --weights, --memory-limit and --explain.
void add_linear_options(CLI::App& app, LinearCommand& command);
// For steps of `ms` tokens. Throws kUsage and kInput for a device, backend, file or policy that is none.
ModelOptions model_options(const LinearCommand& command, std::vector<std::int64_t> ms);

// One line to standard error on who holds how much of the card, when the model is on one.
void print_memory(const Model& model);

// For each kind of linear (equal shape, dtype and pattern) and M: the kernel, why, measured time and share of
// this machine's limit where there is one, the runner-up, why not the others.
std::string explain_linears(const Model& model, std::span<const std::int64_t> ms);
// The same to standard error, if it was asked for.
void print_explanation(const LinearCommand& command, const Model& model, std::span<const std::int64_t> ms);

}  // namespace slidesparse
