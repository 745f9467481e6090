#include "gemm/backends/cusparselt_product.h"

#include "core/checked.h"
#include "core/fail.h"
#include "gemm/backends/common.h"
#include "gemm/backends/cuda_sums.h"

namespace slidesparse::cusparselt {

namespace {

cudaDataType operand_type(DType dtype) {
  return dtype == DType::kI8 ? CUDA_R_8I : CUDA_R_8F_E4M3;
}

}  // namespace

const Method& method_of(const KernelDesc& kernel) {
  require(kernel.backend == "cusparselt" && kernel.id >= 0 && kernel.id < static_cast<int>(kMethods.size()),
          "{} {} is no kernel of cusparselt", kernel.backend, kernel.id);
  return kMethods[static_cast<std::size_t>(kernel.id)];
}

Sizes sizes_of(const GemmDesc& desc, const Method& method) {
  Sizes sizes;
  sizes.m_padded = round_up(desc.m, kDenseStep);
  sizes.n_padded = round_up(desc.n, kStructuredStep);
  sizes.k_padded = round_up(desc.pattern.lifted_k(desc.k), kStructuredStep);
  const auto element = static_cast<std::int64_t>(dtype_size(sums_dtype(method.sums)));
  sizes.tiles = tiles_for_sums(desc.m, sizes.n_padded * element, 64);
  sizes.sums_bytes = round_up(round_up(sizes.tiles.rows, kDenseStep) * sizes.n_padded * element, 256);
  return sizes;
}

void check(cusparseStatus_t status, std::string_view call, const GemmDesc& desc) {
  if (status != CUSPARSE_STATUS_SUCCESS) cusparselt_library().check(status, call, desc.to_string());
}

Matrix::~Matrix() {
  if (made_) cusparselt_library().mat_destroy(&descriptor_);
}

void Matrix::init_structured(const GemmDesc& desc, const Sizes& sizes) {
  check(cusparselt_library().structured_init(cusparselt_handle(), &descriptor_, sizes.n_padded,
                                             sizes.k_padded, sizes.k_padded, kAlignment, operand_type(desc.w),
                                             CUSPARSE_ORDER_ROW, CUSPARSELT_SPARSITY_50_PERCENT),
        "cusparseLtStructuredDescriptorInit", desc);
  made_ = true;
}

void Matrix::init_dense(const GemmDesc& desc, std::int64_t rows, std::int64_t columns, std::int64_t ld,
                        cudaDataType type, cusparseOrder_t order) {
  check(cusparselt_library().dense_init(cusparselt_handle(), &descriptor_, rows, columns, ld, kAlignment,
                                        type, order),
        "cusparseLtDenseDescriptorInit", desc);
  made_ = true;
}

Product::Product(const GemmDesc& desc, const Method& method, const Sizes& sizes, std::int64_t m,
                 const std::optional<CusparseLtConfig>& config) {
  const CusparseLtLibrary& library = cusparselt_library();
  const std::int64_t tokens = round_up(m, kDenseStep);
  w_.init_structured(desc, sizes);
  x_.init_dense(desc, tokens, sizes.k_padded, sizes.k_padded, operand_type(desc.w), CUSPARSE_ORDER_ROW);
  d_.init_dense(desc, sizes.n_padded, tokens, sizes.n_padded, method.sums, CUSPARSE_ORDER_COL);
  check(library.matmul_init(cusparselt_handle(), &operation_, CUSPARSE_OPERATION_NON_TRANSPOSE,
                            CUSPARSE_OPERATION_TRANSPOSE, w_.get(), x_.get(), d_.get(), d_.get(),
                            desc.w == DType::kI8 ? CUSPARSE_COMPUTE_32I : CUSPARSE_COMPUTE_32F),
        "cusparseLtMatmulDescriptorInit", desc);
  if (method.alpha_vector) {
    const int on = 1;
    check(library.matmul_set(cusparselt_handle(), &operation_, CUSPARSELT_MATMUL_ALPHA_VECTOR_SCALING, &on,
                             sizeof(on)),
          "cusparseLtMatmulDescSetAttribute", desc);
  }
  check(library.alg_init(cusparselt_handle(), &algorithm_, &operation_, CUSPARSELT_MATMUL_ALG_DEFAULT),
        "cusparseLtMatmulAlgSelectionInit", desc);
  has_algorithm_ = true;
  try {
    if (config) configure(desc, *config);
    check(library.plan_init(cusparselt_handle(), &plan_, &operation_, &algorithm_),
          "cusparseLtMatmulPlanInit", desc);
    has_plan_ = true;
    std::size_t bytes = 0;
    check(library.get_workspace(cusparselt_handle(), &plan_, &bytes), "cusparseLtMatmulGetWorkspace", desc);
    workspace_bytes_ = round_up(static_cast<std::int64_t>(bytes), 256);
  } catch (...) {
    destroy();
    throw;
  }
}

void Product::configure(const GemmDesc& desc, const CusparseLtConfig& config) {
  const auto set = [&](cusparseLtMatmulAlgAttribute_t attribute, const auto& value) {
    check(cusparselt_library().alg_set(cusparselt_handle(), &algorithm_, attribute, &value, sizeof(value)),
          "cusparseLtMatmulAlgSetAttribute", desc);
  };
  set(CUSPARSELT_MATMUL_ALG_CONFIG_ID, config.alg);
  if (config.splitk == 1) return;
  set(CUSPARSELT_MATMUL_SPLIT_K, config.splitk);
  set(CUSPARSELT_MATMUL_SPLIT_K_MODE, static_cast<cusparseLtSplitKMode_t>(config.mode));
}

int Product::attribute(const GemmDesc& desc, cusparseLtMatmulAlgAttribute_t name) const {
  int value = 0;
  check(cusparselt_library().alg_get(cusparselt_handle(), &algorithm_, name, &value, sizeof(value)),
        "cusparseLtMatmulAlgGetAttribute", desc);
  return value;
}

void Product::destroy() {
  if (has_plan_) cusparselt_library().plan_destroy(&plan_);
  if (has_algorithm_) cusparselt_library().alg_destroy(&algorithm_);
  has_plan_ = has_algorithm_ = false;
}

bool has_plan(const GemmDesc& desc, const Method& method, const std::optional<CusparseLtConfig>& config) {
  try {
    const Sizes sizes = sizes_of(desc, method);
    const Product product(desc, method, sizes, sizes.tiles.rows, config);
    return true;
  } catch (const Error&) {
    return false;  // an id that this problem does not have, or types that the library does not multiply here
  }
}

}  // namespace slidesparse::cusparselt
