#include <algorithm>

#include "core/fail.h"
#include "core/text.h"
#include "gemm/backends/cpu.h"
#include "gemm/backends/reference.h"
#ifdef SLIDESPARSE_HAVE_CUDA
#include "gemm/backends/cublaslt.h"
#include "gemm/backends/cutlass.h"
#include "gemm/backends/native.h"
#endif
#ifdef SLIDESPARSE_HAVE_CUSPARSELT
#include "gemm/backends/cusparselt.h"
#endif

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
  static const std::vector<const Backend*> kList = [] {
    std::vector<const Backend*> list;
#ifdef SLIDESPARSE_HAVE_CUDA
    static const CutlassBackend kCutlass;
    static const CublasLtBackend kCublasLt;
    static const NativeBackend kNative;
    list.push_back(&kCutlass);
    list.push_back(&kCublasLt);
    list.push_back(&kNative);
#endif
#ifdef SLIDESPARSE_HAVE_CUSPARSELT
    static const CusparseLtBackend kCusparseLt;
    list.push_back(&kCusparseLt);
#endif
    list.push_back(&kCpu);
    list.push_back(&kReference);
    return list;
  }();
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

bool is_allowed(std::string_view name, std::span<const std::string> allowed) {
  if (allowed.empty()) return name != "reference";
  return std::find(allowed.begin(), allowed.end(), name) != allowed.end();
}

}  // namespace slidesparse
