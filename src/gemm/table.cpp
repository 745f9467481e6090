#include "core/fail.h"
#include "core/text.h"
#include "gemm/backends/cpu.h"
#include "gemm/backends/reference.h"

namespace slidesparse {

std::vector<KernelDesc> Backend::candidates(const GemmDesc& desc) const {
  std::vector<KernelDesc> found;
  for (KernelDesc& kernel : kernels()) {
    if (feasible(desc, kernel).ok) found.push_back(std::move(kernel));
  }
  return found;
}

const std::vector<const Backend*>& backends() {
  static const CpuBackend kCpu;
  static const ReferenceBackend kReference;
  static const std::vector<const Backend*> kList{&kCpu, &kReference};
  return kList;
}

const Backend& backend_named(std::string_view name) {
  std::string known;
  for (const Backend* backend : backends()) {
    if (backend->name() == name) return *backend;
    known += (known.empty() ? "" : ", ") + std::string(backend->name());
  }
  fail(ErrorKind::kUsage, "backend \"{}\" is not known: one of {}", printable(name, 40), known);
}

}  // namespace slidesparse
