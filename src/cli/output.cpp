#include "cli/output.h"

#include <fmt/core.h>

#include <cstdio>

#include "core/cpu.h"
#include "core/cuda/status.h"
#include "core/parallel.h"
#include "core/version.h"
#include "gemm/backend.h"
#include "io/file_writer.h"

namespace slidesparse {

namespace {

// The card, or null where there is none.
nlohmann::ordered_json describe_card() {
  const CudaStatus& cuda = cuda_status();
  if (!cuda.available) return nullptr;
  const CudaDeviceInfo& card = cuda.devices.front();
  nlohmann::ordered_json json{{"name", card.name},
                              {"compute_capability", card.compute_capability()},
                              {"multiprocessors", card.multiprocessors},
                              {"memory_bytes", card.memory_bytes},
                              {"driver", cuda.driver_version},
                              {"runtime", cuda.runtime_version}};
  for (const Backend* backend : backends()) {
    if (backend->device() == DeviceKind::kCuda && backend->available().ok && !backend->version().empty())
      json["libraries"][std::string(backend->name())] = backend->version();
  }
  return json;
}

}  // namespace

nlohmann::ordered_json describe_run(const std::string& command) {
  return {{"program", "slidesparse"},
          {"version", kVersion},
          {"schema", 1},
          {"command", command},
          {"machine",
           {{"processor", cpu_description()},
            {"isa", isa_name(active_isa())},
            {"amx", has_amx()},
            {"threads", thread_count()},
            {"gpu", describe_card()}}}};
}

nlohmann::ordered_json spread_json(const Spread& spread) {
  return {{"median", spread.median}, {"low", spread.low}, {"high", spread.high}, {"count", spread.count}};
}

void write_json(const std::string& path, const nlohmann::ordered_json& json) {
  const std::string text = json.dump(2) + "\n";
  if (path == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);
  } else {
    write_file_atomically(path, text);
  }
}

std::string describe_pattern(const std::string& pattern) {
  if (pattern == "dense" || pattern == "mixed") return pattern;
  const Pattern parsed = Pattern::parse(pattern.substr(0, pattern.find(' ')));
  return fmt::format("{} (keeps {}, zeroes {})", pattern, parsed.kept(), parsed.zeroed());
}

}  // namespace slidesparse
