#include "gemm/backends/cublaslt_planner.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/checked.h"
#include "core/fail.h"
#include "gemm/backends/common.h"
#include "gemm/backends/cuda_sums.h"

namespace slidesparse::cublaslt {

namespace {

cudaDataType operand_type(DType dtype) {
  return dtype == DType::kI8 ? CUDA_R_8I : dtype == DType::kF8E4M3 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
}

cublasComputeType_t compute_type(const Method& method) {
  return method.w == DType::kI8 ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F;
}

cudaDataType scale_type(const Method& method) {
  return method.w == DType::kI8 ? CUDA_R_32I : CUDA_R_32F;
}

// Stands for any address on a boundary of 256 bytes where the library only looks at its alignment.
const Pointers& pointers_for_planning() {
  static const auto* const kAny = reinterpret_cast<const float*>(std::uintptr_t{256});
  static const Pointers kPointers{kAny, kAny, kAny};
  return kPointers;
}

}  // namespace

const Method& method_of(const KernelDesc& kernel) {
  require(kernel.backend == "cublaslt" && kernel.id >= 0 && kernel.id < static_cast<int>(kMethods.size()),
          "{} {} is no kernel of cublaslt", kernel.backend, kernel.id);
  return kMethods[static_cast<std::size_t>(kernel.id)];
}

Sizes sizes_of(const GemmDesc& desc, const Method& method) {
  Sizes sizes;
  sizes.n_padded = round_up(desc.n, kAlignment);
  sizes.k_padded = round_up(desc.k, kAlignment);
  sizes.ldd = method.tail ? sizes.n_padded : row_stride_out(desc);
  if (method.tail) {
    const auto element = static_cast<std::int64_t>(dtype_size(sums_dtype(method.sums)));
    sizes.tiles = tiles_for_sums(desc.m, sizes.n_padded * element, 64);
    sizes.sums_bytes = round_up(sizes.tiles.rows * sizes.n_padded * element, 256);
  } else {
    sizes.tiles = tiles_below_2_31(desc.m, std::max(sizes.ldd, sizes.k_padded));
  }
  sizes.workspace_bytes = desc.m == 0 ? 0 : kLibraryWorkspace + sizes.sums_bytes;
  return sizes;
}

void Planner::layout(cublasLtMatrixLayoutOpaque_t& to, cudaDataType type, std::int64_t rows,
                     std::int64_t columns, std::int64_t ld) const {
  check(library_.layout_init(&to, sizeof(to), type, static_cast<std::uint64_t>(rows),
                             static_cast<std::uint64_t>(columns), ld),
        "cublasLtMatrixLayoutInit");
}

void Planner::set_up(cublasLtMatmulDescOpaque_t& operation, const Pointers& pointers) const {
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    check(library_.desc_set(&operation, attribute, &value, sizeof(value)), "cublasLtMatmulDescSetAttribute");
  };
  check(library_.desc_init(&operation, sizeof(operation), compute_type(method_), scale_type(method_)),
        "cublasLtMatmulDescInit");
  set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (method_.w == DType::kF8E4M3) set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, std::int8_t{1});
  if (method_.outer_vector) {
    const auto mode = static_cast<std::int32_t>(CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode);
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, pointers.w_scale);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, pointers.x_scale);
  }
  if (desc_.bias && !method_.tail) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<std::int32_t>(CUDA_R_16BF));
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, pointers.bias_bf16);
  }
}

Product Planner::product(std::int64_t m) const {
  Product product;
  layout(product.w, operand_type(method_.w), sizes_.k_padded, sizes_.n_padded, sizes_.k_padded);
  layout(product.x, operand_type(method_.w), sizes_.k_padded, m, sizes_.k_padded);
  layout(product.d, method_.sums, method_.tail ? sizes_.n_padded : desc_.n, m, sizes_.ldd);
  return product;
}

std::vector<cublasLtMatmulAlgo_t> Planner::heuristics(Product product, int wanted) const {
  cublasLtMatmulPreferenceOpaque_t preference{};
  check(library_.preference_init(&preference, sizeof(preference)), "cublasLtMatmulPreferenceInit");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check(library_.preference_set(&preference, attribute, &value, sizeof(value)),
          "cublasLtMatmulPreferenceSetAttribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(kLibraryWorkspace));
  // Parts of a split K may meet in FP32 or INT32 only: the other schemes round more than once.
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  const auto alignment = static_cast<std::uint32_t>(kAlignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment);
  cublasLtMatmulDescOpaque_t operation{};
  set_up(operation, pointers_for_planning());
  std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<std::size_t>(wanted));
  int found = 0;
  check(library_.heuristic(cublaslt_handle(), &operation, &product.w, &product.x, &product.d, &product.d,
                           &preference, wanted, results.data(), &found),
        "cublasLtMatmulAlgoGetHeuristic");
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < found; ++i) {
    const auto& result = results[static_cast<std::size_t>(i)];
    if (result.state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(result.algo);
  }
  if (algorithms.empty())
    fail(ErrorKind::kUnsupported, "cuBLASLt has no algorithm for {} {}", method_.name, desc_.to_string());
  return algorithms;
}

template <typename T>
T Planner::get(const cublasLtMatmulAlgo_t& algo, cublasLtMatmulAlgoConfigAttributes_t attribute) const {
  T value{};
  std::size_t written = 0;
  // An attribute that an algorithm does not have stays at its default.
  library_.algo_get(&algo, attribute, &value, sizeof(value), &written);
  return value;
}

template <typename T, typename From>
void Planner::put(cublasLtMatmulAlgo_t& algo, cublasLtMatmulAlgoConfigAttributes_t attribute,
                  From from) const {
  const auto value = static_cast<T>(from);
  if (get<T>(algo, attribute) == value) return;
  library_.check(library_.algo_set(&algo, attribute, &value, sizeof(value)),
                 "cublasLtMatmulAlgoConfigSetAttribute",
                 fmt::format("attribute {} = {}", static_cast<int>(attribute), value));
}

cublasLtMatmulAlgo_t Planner::rebuild(const CublasLtConfig& config) const {
  cublasLtMatmulAlgo_t algo{};
  if (!config.raw.empty()) {
    auto* bytes = reinterpret_cast<unsigned char*>(&algo);
    for (std::size_t i = 0; i < sizeof(algo); ++i)
      bytes[i] = static_cast<unsigned char>(std::stoi(config.raw.substr(2 * i, 2), nullptr, 16));
    return algo;
  }
  const cudaDataType operand = operand_type(method_.w);
  library_.check(library_.algo_init(cublaslt_handle(), compute_type(method_), scale_type(method_), operand,
                                    operand, method_.sums, method_.sums, config.algo, &algo),
                 "cublasLtMatmulAlgoInit", config.to_string());
  put<std::uint32_t>(algo, CUBLASLT_ALGO_CONFIG_TILE_ID, config.tile);
  put<std::uint32_t>(algo, CUBLASLT_ALGO_CONFIG_STAGES_ID, config.stages);
  put<std::int32_t>(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, config.splitk);
  put<std::uint32_t>(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, config.reduction);
  put<std::uint32_t>(algo, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, config.swizzle);
  put<std::uint32_t>(algo, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, config.custom);
  put<std::uint16_t>(algo, CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, config.inner);
  put<std::uint16_t>(algo, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, config.cluster);
  return algo;
}

CublasLtConfig Planner::config_of(const cublasLtMatmulAlgo_t& algo) const {
  CublasLtConfig config;
  config.algo = get<std::int32_t>(algo, CUBLASLT_ALGO_CONFIG_ID);
  config.tile = get<std::uint32_t>(algo, CUBLASLT_ALGO_CONFIG_TILE_ID);
  config.stages = get<std::uint32_t>(algo, CUBLASLT_ALGO_CONFIG_STAGES_ID);
  config.splitk = get<std::int32_t>(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
  config.reduction = get<std::uint32_t>(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
  config.swizzle = get<std::uint32_t>(algo, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING);
  config.custom = get<std::uint32_t>(algo, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION);
  config.inner = get<std::uint16_t>(algo, CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID);
  config.cluster = get<std::uint16_t>(algo, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID);
  // The raw form says what the fields cannot: also where the library does not bring anything back from them.
  cublasLtMatmulAlgo_t again{};
  try {
    again = rebuild(config);
  } catch (const Error&) {
    again = {};  // zeros, which no algorithm is
  }
  if (std::memcmp(&algo, &again, sizeof(algo)) != 0) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(&algo);
    for (std::size_t i = 0; i < sizeof(algo); ++i) config.raw += fmt::format("{:02x}", bytes[i]);
  }
  return config;
}

cublasStatus_t Planner::judge(Product product, const cublasLtMatmulAlgo_t& algo) const {
  cublasLtMatmulDescOpaque_t operation{};
  set_up(operation, pointers_for_planning());
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t status = library_.algo_check(cublaslt_handle(), &operation, &product.w, &product.x,
                                                    &product.d, &product.d, &algo, &result);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  return result.workspaceSize <= static_cast<std::size_t>(kLibraryWorkspace) ? CUBLAS_STATUS_SUCCESS
                                                                             : CUBLAS_STATUS_NOT_SUPPORTED;
}

}  // namespace slidesparse::cublaslt
