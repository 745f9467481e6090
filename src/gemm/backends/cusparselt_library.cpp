#include "gemm/backends/cusparselt_library.h"

#include <memory>

#include "core/fail.h"

namespace slidesparse {
namespace {

constexpr const char* kName = "libcusparseLt.so.0";
constexpr int kFirstMinor = 8;  // of version 0
constexpr int kLastMinor = 10;

// As the header of each version declares them: they are allocated here and filled there.
static_assert(sizeof(cusparseLtHandle_t) == 512 && sizeof(cusparseLtMatDescriptor_t) == 512 &&
              sizeof(cusparseLtMatmulDescriptor_t) == 512 && sizeof(cusparseLtMatmulAlgSelection_t) == 512 &&
              sizeof(cusparseLtMatmulPlan_t) == 512);

}  // namespace

CusparseLtLibrary::CusparseLtLibrary(std::string_view option) : library_(option, {kName}) {
  if (!library_.found()) {
    reason_ =
        fmt::format("cuSPARSELt 0.{} to 0.{} was not found: {}", kFirstMinor, kLastMinor, library_.reason());
    return;
  }
  library_.resolve("cusparseLtGetProperty", get_property, reason_);
  if (get_property == nullptr) return;
  int major = -1, minor = -1, patch = -1;
  get_property(MAJOR_VERSION, &major);
  get_property(MINOR_VERSION, &minor);
  get_property(PATCH_LEVEL, &patch);
  version_ = fmt::format("{}.{}.{}", major, minor, patch);
  if (major != 0 || minor < kFirstMinor || minor > kLastMinor) {
    reason_ = fmt::format("{} is cuSPARSELt {}: 0.{} to 0.{} are needed", library_.path(), version_,
                          kFirstMinor, kLastMinor);
    return;
  }
  library_.resolve("cusparseLtInit", init, reason_);
  library_.resolve("cusparseLtGetErrorName", error_name, reason_);
  library_.resolve("cusparseLtDenseDescriptorInit", dense_init, reason_);
  library_.resolve("cusparseLtStructuredDescriptorInit", structured_init, reason_);
  library_.resolve("cusparseLtMatDescriptorDestroy", mat_destroy, reason_);
  library_.resolve("cusparseLtMatmulDescriptorInit", matmul_init, reason_);
  library_.resolve("cusparseLtMatmulDescSetAttribute", matmul_set, reason_);
  library_.resolve("cusparseLtMatmulAlgSelectionInit", alg_init, reason_);
  library_.resolve("cusparseLtMatmulAlgSelectionDestroy", alg_destroy, reason_);
  library_.resolve("cusparseLtMatmulAlgSetAttribute", alg_set, reason_);
  library_.resolve("cusparseLtMatmulAlgGetAttribute", alg_get, reason_);
  library_.resolve("cusparseLtMatmulPlanInit", plan_init, reason_);
  library_.resolve("cusparseLtMatmulPlanDestroy", plan_destroy, reason_);
  library_.resolve("cusparseLtMatmulGetWorkspace", get_workspace, reason_);
  library_.resolve("cusparseLtMatmul", matmul, reason_);
  library_.resolve("cusparseLtSpMMACompressedSize2", compressed_size, reason_);
  library_.resolve("cusparseLtSpMMACompress2", compress, reason_);
}

void CusparseLtLibrary::check(cusparseStatus_t status, std::string_view call, std::string_view what) const {
  if (status == CUSPARSE_STATUS_SUCCESS) return;
  const bool cannot = status == CUSPARSE_STATUS_NOT_SUPPORTED || status == CUSPARSE_STATUS_ARCH_MISMATCH;
  const char* name = error_name(status);
  ErrorFacts facts;
  facts.library = "cusparselt";
  facts.library_code = static_cast<std::int64_t>(status);
  fail_with(std::move(facts), cannot ? ErrorKind::kUnsupported : ErrorKind::kInternal, "{}: {} ({}) for {}",
            call, name == nullptr ? "unknown status" : name, static_cast<int>(status), what);
}

const CusparseLtLibrary& cusparselt_library() {
  static const CusparseLtLibrary kLibrary(library_paths().cusparselt);
  return kLibrary;
}

const cusparseLtHandle_t* cusparselt_handle() {
  // Never destroyed: the library may be gone by then.
  static const cusparseLtHandle_t* const kHandle = [] {
    auto handle = std::make_unique<cusparseLtHandle_t>();
    cusparselt_library().check(cusparselt_library().init(handle.get()), "cusparseLtInit",
                               "the first product");
    return handle.release();
  }();
  return kHandle;
}

}  // namespace slidesparse
