#pragma once

#include <cusparseLt.h>

#include <string>
#include <string_view>

#include "core/shared_library.h"

namespace slidesparse {

// cuSPARSELt as it was found at run time: libcusparseLt.so.0. Versions 0.8 to 0.10 have the same functions,
// enumerations and sizes (all five opaque structures hold 512 bytes in each); others are refused, because
// structures and enumerations of this library have changed between versions before.
class CusparseLtLibrary {
 public:
  // Opens the library (core/shared_library.h says where it is looked for) and checks its version. Never
  // throws.
  explicit CusparseLtLibrary(std::string_view option);

  bool usable() const { return reason_.empty(); }
  const std::string& reason() const { return reason_; }  // why not, otherwise empty
  std::string version() const { return version_; }       // "0.8.0"; empty when not found

  // Throws kUnsupported (not supported) or kInternal with the call, the library's name for `status` and
  // `what`, which names sizes.
  void check(cusparseStatus_t status, std::string_view call, std::string_view what) const;

  decltype(&cusparseLtInit) init = nullptr;
  decltype(&cusparseLtGetProperty) get_property = nullptr;
  decltype(&cusparseLtGetErrorName) error_name = nullptr;
  decltype(&cusparseLtDenseDescriptorInit) dense_init = nullptr;
  decltype(&cusparseLtStructuredDescriptorInit) structured_init = nullptr;
  decltype(&cusparseLtMatDescriptorDestroy) mat_destroy = nullptr;
  decltype(&cusparseLtMatmulDescriptorInit) matmul_init = nullptr;
  decltype(&cusparseLtMatmulDescSetAttribute) matmul_set = nullptr;
  decltype(&cusparseLtMatmulAlgSelectionInit) alg_init = nullptr;
  decltype(&cusparseLtMatmulAlgSelectionDestroy) alg_destroy = nullptr;
  decltype(&cusparseLtMatmulAlgSetAttribute) alg_set = nullptr;
  decltype(&cusparseLtMatmulAlgGetAttribute) alg_get = nullptr;
  decltype(&cusparseLtMatmulPlanInit) plan_init = nullptr;
  decltype(&cusparseLtMatmulPlanDestroy) plan_destroy = nullptr;
  decltype(&cusparseLtMatmulGetWorkspace) get_workspace = nullptr;
  decltype(&cusparseLtMatmul) matmul = nullptr;
  decltype(&cusparseLtSpMMACompressedSize2) compressed_size = nullptr;
  decltype(&cusparseLtSpMMACompress2) compress = nullptr;

 private:
  SharedLibrary library_;
  std::string reason_;
  std::string version_;
};

// The one of this process, opened at the first call from library_paths().cusparselt.
const CusparseLtLibrary& cusparselt_library();
// Its handle on the current card, made at the first call and kept. Throws when it cannot be made.
const cusparseLtHandle_t* cusparselt_handle();

}  // namespace slidesparse
