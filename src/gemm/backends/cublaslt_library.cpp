#include "gemm/backends/cublaslt_library.h"

#include "core/fail.h"

namespace slidesparse {
namespace {

constexpr const char* kName = "libcublasLt.so.13";
constexpr std::size_t kMajor = 13;

}  // namespace

CublasLtLibrary::CublasLtLibrary(std::string_view option) : library_(option, {kName}) {
  if (!library_.found()) {
    reason_ = fmt::format("cuBLASLt {} was not found: {}", kMajor, library_.reason());
    return;
  }
  library_.resolve("cublasLtGetVersion", get_version, reason_);
  if (get_version == nullptr) return;
  const std::size_t number = get_version();
  version_ = fmt::format("{}.{}.{}", number / 10000, number / 100 % 100, number % 100);
  if (number / 10000 != kMajor) {
    reason_ = fmt::format("{} is cuBLASLt {}: {}.x is needed", library_.path(), version_, kMajor);
    return;
  }
  library_.resolve("cublasLtCreate", create, reason_);
  library_.resolve("cublasLtGetStatusName", status_name, reason_);
  library_.resolve("cublasLtMatmul", matmul, reason_);
  library_.resolve("cublasLtMatmulDescInit_internal", desc_init, reason_);
  library_.resolve("cublasLtMatmulDescSetAttribute", desc_set, reason_);
  library_.resolve("cublasLtMatrixLayoutInit_internal", layout_init, reason_);
  library_.resolve("cublasLtMatmulPreferenceInit_internal", preference_init, reason_);
  library_.resolve("cublasLtMatmulPreferenceSetAttribute", preference_set, reason_);
  library_.resolve("cublasLtMatmulAlgoGetHeuristic", heuristic, reason_);
  library_.resolve("cublasLtMatmulAlgoInit", algo_init, reason_);
  library_.resolve("cublasLtMatmulAlgoCheck", algo_check, reason_);
  library_.resolve("cublasLtMatmulAlgoConfigSetAttribute", algo_set, reason_);
  library_.resolve("cublasLtMatmulAlgoConfigGetAttribute", algo_get, reason_);
}

void CublasLtLibrary::check(cublasStatus_t status, std::string_view call, std::string_view what) const {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  ErrorFacts facts;
  facts.library = "cublaslt";
  facts.library_code = static_cast<std::int64_t>(status);
  fail_with(std::move(facts),
            status == CUBLAS_STATUS_NOT_SUPPORTED ? ErrorKind::kUnsupported : ErrorKind::kInternal,
            "{}: {} ({}) for {}", call, status_name(status), static_cast<int>(status), what);
}

const CublasLtLibrary& cublaslt_library() {
  static const CublasLtLibrary kLibrary(library_paths().cublaslt);
  return kLibrary;
}

cublasLtHandle_t cublaslt_handle() {
  static const cublasLtHandle_t kHandle = [] {
    cublasLtHandle_t handle = nullptr;
    cublaslt_library().check(cublaslt_library().create(&handle), "cublasLtCreate", "the first product");
    return handle;
  }();
  return kHandle;
}

}  // namespace slidesparse
