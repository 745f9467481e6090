#include <fmt/core.h>

#include "cli/commands.h"
#include "core/cpu.h"
#include "core/parallel.h"
#include "core/version.h"
#include "gemm/backend.h"
#include "slidesparse/format/pattern.h"

namespace slidesparse {
namespace {

void run_info() {
  fmt::print("slidesparse {}\n", kVersion);
  fmt::print("processor:  {}\n", cpu_description());
  fmt::print("kernels:    {} in use, {} available, AMX {}\n", isa_name(active_isa()),
             isa_name(detected_isa()), has_amx() ? "yes" : "no");
  fmt::print("threads:    {}\n", thread_count());
  fmt::print("CUDA:       not in this build: there are no GPU kernels yet ({})\n",
             *kCudaToolkit == '\0'
                 ? std::string("no CUDA toolkit was found when it was built")
                 : fmt::format("CUDA toolkit {} was found when it was built", kCudaToolkit));
  fmt::print("patterns:   {}\n", pattern_list());
  fmt::print("backends:\n");
  for (const Backend* backend : backends()) {
    const Feasibility state = backend->available();
    fmt::print("  {:<10}{} ({} kernels)\n", backend->name(),
               state.ok ? "available" : "not available: " + state.reason, backend->kernels().size());
  }
}

}  // namespace

void add_info(CLI::App& app, const GlobalOptions&) {
  CLI::App* command = app.add_subcommand("info", "What this build and this machine can do");
  command->footer("Example: slidesparse info");
  command->callback([] { run_info(); });
}

}  // namespace slidesparse
