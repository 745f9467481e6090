#pragma once

// What reports and databases say of a machine. Include from .cpp files only.
#include <nlohmann/json.hpp>

namespace slidesparse {

// {"processor", "isa", "amx", "threads", "gpu"}: docs/bench.md. "gpu" is null where there is no card.
nlohmann::ordered_json describe_machine();

}  // namespace slidesparse
