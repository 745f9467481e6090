#pragma once

#include <cublasLt.h>

#include <string>
#include <string_view>

#include "core/shared_library.h"

namespace slidesparse {

// cuBLASLt as it was found at run time: libcublasLt.so.13, whose enumerations and structures are those of the
// header that this was built with. Members are null unless usable().
class CublasLtLibrary {
 public:
  // Opens the library (core/shared_library.h says where it is looked for) and checks its version. Never
  // throws.
  explicit CublasLtLibrary(std::string_view option);

  bool usable() const { return reason_.empty(); }
  const std::string& reason() const { return reason_; }  // why not, otherwise empty
  std::string version() const { return version_; }       // "13.1.0"; empty when not found

  // Throws kInternal with the call, cuBLAS' name for `status` and `what`, which names sizes.
  void check(cublasStatus_t status, std::string_view call, std::string_view what) const;

  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtGetVersion) get_version = nullptr;
  decltype(&cublasLtGetStatusName) status_name = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulDescInit_internal) desc_init = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutInit_internal) layout_init = nullptr;
  decltype(&cublasLtMatmulPreferenceInit_internal) preference_init = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulAlgoInit) algo_init = nullptr;
  decltype(&cublasLtMatmulAlgoCheck) algo_check = nullptr;
  decltype(&cublasLtMatmulAlgoConfigSetAttribute) algo_set = nullptr;
  decltype(&cublasLtMatmulAlgoConfigGetAttribute) algo_get = nullptr;

 private:
  SharedLibrary library_;
  std::string reason_;
  std::string version_;
};

// The one of this process, opened at the first call from library_paths().cublaslt.
const CublasLtLibrary& cublaslt_library();
// Its handle on the current card, made at the first call and kept. Throws when it cannot be made.
cublasLtHandle_t cublaslt_handle();

}  // namespace slidesparse
