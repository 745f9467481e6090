#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "gemm/backends/cuda_tiles.h"
#include "gemm/backends/cusparselt.h"
#include "gemm/backends/cusparselt_library.h"

// How cuSPARSELt's products are described to it: D^T[n, m] = W'[n, K'] X'[m, K']^T with W' structured and
// row-major, X' row-major and transposed, and D^T column-major, which is D[m, n] row-major.
namespace slidesparse::cusparselt {

inline constexpr std::int64_t kStructuredStep = 32;  // rows and columns of a structured 8-bit matrix
inline constexpr std::int64_t kDenseStep = 16;       // rows and columns of a dense one
inline constexpr std::uint32_t kAlignment = 16;      // bytes

struct Method {
  const char* name;
  DType w;
  cudaDataType sums;  // what the library writes for the tail
  bool alpha_vector;  // it applies the channel scales
  bool two_roundings;
};

// KernelDesc::id is the index.
inline constexpr std::array<Method, 6> kMethods{{
    {"cusparselt F8_E4M3 F32+tail", DType::kF8E4M3, CUDA_R_32F, false, false},
    {"cusparselt F8_E4M3 BF16+tail", DType::kF8E4M3, CUDA_R_16BF, false, true},
    {"cusparselt F8_E4M3 alpha BF16+tail", DType::kF8E4M3, CUDA_R_16BF, true, true},
    {"cusparselt I8 I32+tail", DType::kI8, CUDA_R_32I, false, false},
    {"cusparselt I8 BF16+tail", DType::kI8, CUDA_R_16BF, false, true},
    {"cusparselt I8 alpha BF16+tail", DType::kI8, CUDA_R_16BF, true, true},
}};

// Throws kInternal for a kernel of another backend.
const Method& method_of(const KernelDesc& kernel);

struct Sizes {
  std::int64_t m_padded = 0;
  std::int64_t n_padded = 0;
  std::int64_t k_padded = 0;  // K', lifted
  TokenTiles tiles;
  std::int64_t sums_bytes = 0;  // of one tile
};
Sizes sizes_of(const GemmDesc& desc, const Method& method);

// Throws with the call and the sizes of `desc` unless `status` is success.
void check(cusparseStatus_t status, std::string_view call, const GemmDesc& desc);

// A descriptor that is given back with its owner. Neither copied nor moved: plans point at it.
class Matrix {
 public:
  Matrix() = default;
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;
  ~Matrix();

  // W' [n_padded, k_padded], row-major.
  void init_structured(const GemmDesc& desc, const Sizes& sizes);
  void init_dense(const GemmDesc& desc, std::int64_t rows, std::int64_t columns, std::int64_t ld,
                  cudaDataType type, cusparseOrder_t order);

  const cusparseLtMatDescriptor_t* get() const { return &descriptor_; }

 private:
  cusparseLtMatDescriptor_t descriptor_{};
  bool made_ = false;
};

// The library's plan for `m` tokens (padded here) and everything it points at. Without a config the algorithm
// is the library's choice. Throws when the library refuses.
class Product {
 public:
  Product(const GemmDesc& desc, const Method& method, const Sizes& sizes, std::int64_t m,
          const std::optional<CusparseLtConfig>& config);
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;
  ~Product() { destroy(); }

  const cusparseLtMatmulPlan_t* plan() const { return &plan_; }
  std::int64_t workspace_bytes() const { return workspace_bytes_; }

  // Of the algorithm in use, and how many ids there are.
  int algorithm_id(const GemmDesc& desc) const { return attribute(desc, CUSPARSELT_MATMUL_ALG_CONFIG_ID); }
  int algorithm_count(const GemmDesc& desc) const {
    return attribute(desc, CUSPARSELT_MATMUL_ALG_CONFIG_MAX_ID);
  }

 private:
  void configure(const GemmDesc& desc, const CusparseLtConfig& config);
  int attribute(const GemmDesc& desc, cusparseLtMatmulAlgAttribute_t name) const;
  void destroy();

  Matrix w_, x_, d_;
  cusparseLtMatmulDescriptor_t operation_{};
  cusparseLtMatmulAlgSelection_t algorithm_{};
  cusparseLtMatmulPlan_t plan_{};
  bool has_algorithm_ = false;
  bool has_plan_ = false;
  std::int64_t workspace_bytes_ = 0;
};

// Whether the library makes a plan for it: tens of microseconds on the host, nothing runs.
bool has_plan(const GemmDesc& desc, const Method& method, const std::optional<CusparseLtConfig>& config);

}  // namespace slidesparse::cusparselt
