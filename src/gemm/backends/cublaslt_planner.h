#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "gemm/backends/cublaslt.h"
#include "gemm/backends/cublaslt_library.h"
#include "gemm/backends/cuda_tiles.h"

// How cuBLASLt's products are described to it. D[m, n] row-major is D^T[n, m] column-major: A = W with W[n,
// K] row-major taken as [K, n] column-major and transposed, B = X[m, K] row-major taken as [K, m]: the "TN"
// form, the only one that 8-bit types have.
namespace slidesparse::cublaslt {

inline constexpr std::int64_t kLibraryWorkspace = std::int64_t{64} << 20;
inline constexpr std::int64_t kAlignment = 16;  // of N and K in elements and of pointers in bytes

struct Method {
  const char* name;
  DType w;
  cudaDataType sums;  // what the library writes: the output itself unless `tail`
  bool outer_vector;
  bool tail;
  bool two_roundings;
};

// KernelDesc::id is the index.
inline constexpr std::array<Method, 7> kMethods{{
    {"cublaslt F8_E4M3 fast-accum outer-vector", DType::kF8E4M3, CUDA_R_16BF, true, false, false},
    {"cublaslt F8_E4M3 fast-accum F32+tail", DType::kF8E4M3, CUDA_R_32F, false, true, false},
    {"cublaslt F8_E4M3 fast-accum BF16+tail", DType::kF8E4M3, CUDA_R_16BF, false, true, true},
    {"cublaslt I8 I32+tail", DType::kI8, CUDA_R_32I, false, true, false},
    {"cublaslt BF16", DType::kBF16, CUDA_R_16BF, false, false, false},
    {"cublaslt BF16 to F32", DType::kBF16, CUDA_R_32F, false, false, false},
    {"cublaslt BF16 F32+tail", DType::kBF16, CUDA_R_32F, false, true, false},
}};

// Throws kInternal for a kernel of another backend.
const Method& method_of(const KernelDesc& kernel);

struct Sizes {
  std::int64_t n_padded = 0;
  std::int64_t k_padded = 0;
  std::int64_t ldd = 0;  // of what the library writes
  TokenTiles tiles;
  std::int64_t sums_bytes = 0;  // 0 without a tail
  std::int64_t workspace_bytes = 0;
};
Sizes sizes_of(const GemmDesc& desc, const Method& method);

// The library's descriptors of one product of `m` tokens.
struct Product {
  cublasLtMatrixLayoutOpaque_t w{};
  cublasLtMatrixLayoutOpaque_t x{};
  cublasLtMatrixLayoutOpaque_t d{};
  cublasLtMatmulAlgo_t algo{};
};

// What differs from layer to layer and from tile to tile.
struct Pointers {
  const float* w_scale = nullptr;
  const float* x_scale = nullptr;
  const void* bias_bf16 = nullptr;
};

// Describes the products of one problem, and asks for algorithms. Refers to what it was made from.
class Planner {
 public:
  Planner(const GemmDesc& desc, const Method& method)
      : library_(cublaslt_library()), desc_(desc), method_(method), sizes_(sizes_of(desc, method)) {}

  const Sizes& sizes() const { return sizes_; }

  // Words are made only when there is something to say: this stands in the path of every run.
  void check(cublasStatus_t status, std::string_view call) const {
    if (status != CUBLAS_STATUS_SUCCESS) library_.check(status, call, desc_.to_string());
  }

  void set_up(cublasLtMatmulDescOpaque_t& operation, const Pointers& pointers) const;

  // All but the algorithm.
  Product product(std::int64_t m) const;

  // Best first, at least one and at most `wanted`. Throws kUnsupported when the library has none.
  std::vector<cublasLtMatmulAlgo_t> heuristics(Product product, int wanted) const;

  CublasLtConfig config_of(const cublasLtMatmulAlgo_t& algo) const;

  // The algorithm that a config names; throws when the library does not know it.
  cublasLtMatmulAlgo_t rebuild(const CublasLtConfig& config) const;

  // The library's word on `algo` for `product`, its workspace included.
  cublasStatus_t judge(Product product, const cublasLtMatmulAlgo_t& algo) const;

 private:
  void layout(cublasLtMatrixLayoutOpaque_t& to, cudaDataType type, std::int64_t rows, std::int64_t columns,
              std::int64_t ld) const;
  template <typename T>
  T get(const cublasLtMatmulAlgo_t& algo, cublasLtMatmulAlgoConfigAttributes_t attribute) const;
  template <typename T, typename From>
  void put(cublasLtMatmulAlgo_t& algo, cublasLtMatmulAlgoConfigAttributes_t attribute, From from) const;

  const CublasLtLibrary& library_;
  const GemmDesc& desc_;
  const Method& method_;
  Sizes sizes_;
};

}  // namespace slidesparse::cublaslt
