#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/model.h"

namespace slidesparse {

// Where a model runs and how the kernels of its linears are chosen, in the words of the command line, which
// messages use too.
struct Placement {
  std::string device;  // see parse_device
  std::vector<std::string> backends;
  // File that `tune` wrote. Empty: on a card the default one if it is there, on the CPU none (kernels are
  // chosen by rule, so that figures repeat).
  std::string cache;
  std::string weights = "fastest";
  std::string attention = "auto";
  std::string head;               // "bf16", "int8" or "fp8"; empty: as it is stored
  std::int64_t memory_limit = 0;  // bytes; 0: what the card has
};

// "cpu", "cuda", or empty: cuda where there is a card. Throws kUsage for other words, kUnsupported with the
// reason when cuda is asked for and not to be had.
DeviceKind parse_device(const std::string& text);

// The type of the output head: "bf16", "int8", "fp8", or empty: as it is stored. Throws kUsage with the list.
std::optional<DType> parse_head(const std::string& text);

// $XDG_CACHE_HOME/slidesparse/tuning.json or ~/.cache/...; throws kUsage when neither is known.
std::string default_tuning_cache();

// For steps of `ms` tokens. Sets the process's limit of a card's memory. Throws kUsage and kInput for a
// device, backend, head, file, policy or limit that is none.
ModelOptions model_options(const Placement& placement, std::vector<std::int64_t> ms);

}  // namespace slidesparse
