#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/placement.h"

namespace slidesparse {

// Where commands run a model, how they choose the kernels of its linears, and whether they say why.
struct LinearCommand {
  Placement placement;
  std::string memory_limit;  // "22.4GiB"; empty: what the card has
  bool explain = false;
};

// Bytes of a --memory-limit, "22.4GiB" for example; empty: 0. Throws kUsage for what is no size.
std::int64_t parse_memory_limit_option(const std::string& text);

// --device, --backend, --cache, --weights, --attention, --head, --memory-limit and --explain.
void add_linear_options(CLI::App& app, LinearCommand& command);
// As model_options of a Placement; throws kUsage for a limit that is no size, too.
ModelOptions model_options(const LinearCommand& command, std::vector<std::int64_t> ms);

// One line to standard error on who holds how much of the card, when the model is on one.
void print_memory(const Model& model);

// For each kind of linear (equal shape, dtype and pattern) and M: the kernel, why, measured time and share of
// this machine's limit where there is one, the runner-up, why not the others.
std::string explain_linears(const Model& model, std::span<const std::int64_t> ms);
// The same to standard error, if it was asked for.
void print_explanation(const LinearCommand& command, const Model& model, std::span<const std::int64_t> ms);

}  // namespace slidesparse
