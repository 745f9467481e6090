#include <fmt/core.h>

#include "cli/commands.h"
#include "core/cpu.h"
#include "core/cuda/status.h"
#include "core/parallel.h"
#include "core/text.h"
#include "core/version.h"
#include "gemm/backend.h"
#include "slidesparse/format/pattern.h"

namespace slidesparse {
namespace {

std::string version_text(int version) {
  return version == 0 ? "none" : fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

void print_cuda() {
  const CudaStatus& cuda = cuda_status();
  if (!cuda.built) {
    fmt::print("CUDA:       not available: {}\n", cuda.reason);
    return;
  }
  fmt::print("CUDA:       {}; built with {}, runtime {}, driver {}\n",
             cuda.available ? "available" : "not available: " + cuda.reason, kCudaToolkit,
             version_text(cuda.runtime_version), version_text(cuda.driver_version));
  for (const CudaDeviceInfo& card : cuda.devices) {
    fmt::print("card {}:     {}, compute capability {}.{}, {} multiprocessors, memory {}, L2 {}\n",
               card.index, card.name, card.major, card.minor, card.multiprocessors,
               format_bytes(static_cast<double>(card.memory_bytes)),
               format_bytes(static_cast<double>(card.l2_bytes)));
  }
}

void run_info() {
  fmt::print("slidesparse {}\n", kVersion);
  fmt::print("processor:  {}\n", cpu_description());
  fmt::print("kernels:    {} in use, {} available, AMX {}\n", isa_name(active_isa()),
             isa_name(detected_isa()), has_amx() ? "yes" : "no");
  fmt::print("threads:    {}\n", thread_count());
  print_cuda();
  fmt::print("patterns:   {}\n", pattern_list());
  fmt::print("backends:\n");
  for (const Backend* backend : backends()) {
    const Feasibility state = backend->available();
    fmt::print("  {:<12}{} ({} kernels)\n", backend->name(),
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
