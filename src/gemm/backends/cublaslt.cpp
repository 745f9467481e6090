#include "gemm/backends/cublaslt.h"

#include <algorithm>
#include <array>
#include <future>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/cuda/check.h"
#include "core/cuda/status.h"
#include "core/cuda/stream.h"
#include "core/fail.h"
#include "core/text.h"
#include "gemm/backends/common.h"
#include "gemm/backends/cublaslt_library.h"
#include "gemm/backends/cuda_sums.h"
#include "gemm/backends/cuda_tiles.h"
#include "gemm/backends/cuda_weights.h"
#include "kernels/cuda/tail.h"

// D[m, n] row-major is D^T[n, m] column-major: A = W with W[n, K] row-major taken as [K, n] column-major and
// transposed, B = X[m, K] row-major taken as [K, m]: the "TN" form, the only one that 8-bit types have.
namespace slidesparse {
namespace {

constexpr std::int64_t kLibraryWorkspace = std::int64_t{64} << 20;
constexpr std::int64_t kAlignment = 16;  // of N and K in elements and of pointers in bytes
constexpr int kHeuristics = 32;

struct Method {
  const char* name;
  DType w;
  cudaDataType sums;  // what the library writes: the output itself unless `tail`
  bool outer_vector;
  bool tail;
  bool two_roundings;
};

// KernelDesc::id is the index.
constexpr std::array<Method, 6> kMethods{{
    {"cublaslt F8_E4M3 fast-accum outer-vector", DType::kF8E4M3, CUDA_R_16BF, true, false, false},
    {"cublaslt F8_E4M3 fast-accum F32+tail", DType::kF8E4M3, CUDA_R_32F, false, true, false},
    {"cublaslt F8_E4M3 fast-accum BF16+tail", DType::kF8E4M3, CUDA_R_16BF, false, true, true},
    {"cublaslt I8 I32+tail", DType::kI8, CUDA_R_32I, false, true, false},
    {"cublaslt BF16", DType::kBF16, CUDA_R_16BF, false, false, false},
    {"cublaslt BF16 F32+tail", DType::kBF16, CUDA_R_32F, false, true, false},
}};

const Method& method_of(const KernelDesc& kernel) {
  require(kernel.backend == "cublaslt" && kernel.id >= 0 && kernel.id < static_cast<int>(kMethods.size()),
          "{} {} is no kernel of cublaslt", kernel.backend, kernel.id);
  return kMethods[static_cast<std::size_t>(kernel.id)];
}

cudaDataType operand_type(DType dtype) {
  return dtype == DType::kI8 ? CUDA_R_8I : dtype == DType::kF8E4M3 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
}

cublasComputeType_t compute_type(const Method& method) {
  return method.w == DType::kI8 ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F;
}

cudaDataType scale_type(const Method& method) {
  return method.w == DType::kI8 ? CUDA_R_32I : CUDA_R_32F;
}

struct Sizes {
  std::int64_t n_padded = 0;
  std::int64_t k_padded = 0;
  std::int64_t ldd = 0;  // of what the library writes
  TokenTiles tiles;
  std::int64_t sums_bytes = 0;  // 0 without a tail
  std::int64_t workspace_bytes = 0;
};

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

// The library's descriptors of one product of `m` tokens.
struct Product {
  cublasLtMatrixLayoutOpaque_t w{};
  cublasLtMatrixLayoutOpaque_t x{};
  cublasLtMatrixLayoutOpaque_t d{};
  cublasLtMatmulAlgo_t algo{};
};

struct CublasLtState {
  Sizes sizes;
  Product full;  // tiles.rows tokens
  Product last;  // tiles.last tokens
};

// What differs from layer to layer and from tile to tile.
struct Pointers {
  const float* w_scale = nullptr;
  const float* x_scale = nullptr;
  const void* bias_bf16 = nullptr;
};

// Stands for any address on a boundary of 256 bytes where the library only looks at its alignment.
const Pointers& pointers_for_planning() {
  static const auto* const kAny = reinterpret_cast<const float*>(std::uintptr_t{256});
  static const Pointers kPointers{kAny, kAny, kAny};
  return kPointers;
}

class Planner {
 public:
  Planner(const GemmDesc& desc, const Method& method)
      : library_(cublaslt_library()), desc_(desc), method_(method), sizes_(sizes_of(desc, method)) {}

  const Sizes& sizes() const { return sizes_; }

  // Words are made only when there is something to say: this stands in the path of every run.
  void check(cublasStatus_t status, std::string_view call) const {
    if (status != CUBLAS_STATUS_SUCCESS) library_.check(status, call, desc_.to_string());
  }

  void set_up(cublasLtMatmulDescOpaque_t& operation, const Pointers& pointers) const {
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
      check(library_.desc_set(&operation, attribute, &value, sizeof(value)),
            "cublasLtMatmulDescSetAttribute");
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

  // All but the algorithm.
  Product product(std::int64_t m) const {
    Product product;
    layout(product.w, operand_type(method_.w), sizes_.k_padded, sizes_.n_padded, sizes_.k_padded);
    layout(product.x, operand_type(method_.w), sizes_.k_padded, m, sizes_.k_padded);
    layout(product.d, method_.sums, method_.tail ? sizes_.n_padded : desc_.n, m, sizes_.ldd);
    return product;
  }

  // Best first, at least one.
  std::vector<cublasLtMatmulAlgo_t> heuristics(Product product, int wanted) const {
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

  CublasLtConfig config_of(const cublasLtMatmulAlgo_t& algo) const {
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
    if (std::memcmp(&algo, rebuilt_or_null(config), sizeof(algo)) != 0) {
      const auto* bytes = reinterpret_cast<const unsigned char*>(&algo);
      for (std::size_t i = 0; i < sizeof(algo); ++i) config.raw += fmt::format("{:02x}", bytes[i]);
    }
    return config;
  }

  // The algorithm that a config names; throws when the library does not know it.
  cublasLtMatmulAlgo_t rebuild(const CublasLtConfig& config) const {
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

  // The library's word on `algo` for `product`, its workspace included.
  cublasStatus_t judge(Product product, const cublasLtMatmulAlgo_t& algo) const {
    cublasLtMatmulDescOpaque_t operation{};
    set_up(operation, pointers_for_planning());
    cublasLtMatmulHeuristicResult_t result{};
    const cublasStatus_t status = library_.algo_check(cublaslt_handle(), &operation, &product.w, &product.x,
                                                      &product.d, &product.d, &algo, &result);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    return result.workspaceSize <= static_cast<std::size_t>(kLibraryWorkspace) ? CUBLAS_STATUS_SUCCESS
                                                                               : CUBLAS_STATUS_NOT_SUPPORTED;
  }

 private:
  void layout(cublasLtMatrixLayoutOpaque_t& to, cudaDataType type, std::int64_t rows, std::int64_t columns,
              std::int64_t ld) const {
    check(library_.layout_init(&to, sizeof(to), type, static_cast<std::uint64_t>(rows),
                               static_cast<std::uint64_t>(columns), ld),
          "cublasLtMatrixLayoutInit");
  }

  template <typename T>
  T get(const cublasLtMatmulAlgo_t& algo, cublasLtMatmulAlgoConfigAttributes_t attribute) const {
    T value{};
    std::size_t written = 0;
    // An attribute that an algorithm does not have stays at its default.
    library_.algo_get(&algo, attribute, &value, sizeof(value), &written);
    return value;
  }

  template <typename T, typename From>
  void put(cublasLtMatmulAlgo_t& algo, cublasLtMatmulAlgoConfigAttributes_t attribute, From from) const {
    const auto value = static_cast<T>(from);
    if (get<T>(algo, attribute) == value) return;
    library_.check(library_.algo_set(&algo, attribute, &value, sizeof(value)),
                   "cublasLtMatmulAlgoConfigSetAttribute",
                   fmt::format("attribute {} = {}", static_cast<int>(attribute), value));
  }

  // What the fields alone give; zeros, which no algorithm is, when they do not give one.
  const cublasLtMatmulAlgo_t* rebuilt_or_null(const CublasLtConfig& config) const {
    static thread_local cublasLtMatmulAlgo_t algo;
    algo = {};
    try {
      algo = rebuild(config);
    } catch (const Error&) {
      // The raw form says what the fields cannot.
    }
    return &algo;
  }

  const CublasLtLibrary& library_;
  const GemmDesc& desc_;
  const Method& method_;
  Sizes sizes_;
};

bool aligned(const void* pointer, std::int64_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % static_cast<std::uintptr_t>(bytes) == 0;
}

}  // namespace

std::string cublaslt_problem(std::string_view option) {
  return CublasLtLibrary(option).reason();
}

std::string CublasLtConfig::to_string() const {
  std::string text =
      fmt::format("algo={} tile={} stages={} splitk={} reduction={} swizzle={} custom={} inner={} cluster={}",
                  algo, tile, stages, splitk, reduction, swizzle, custom, inner, cluster);
  if (!raw.empty()) text += " raw=" + raw;
  return text;
}

std::optional<CublasLtConfig> CublasLtConfig::parse(std::string_view text) {
  if (text.empty()) return {};
  CublasLtConfig config;
  constexpr std::int64_t kInt = INT32_MAX;
  constexpr std::size_t kHexDigits = 2 * sizeof(cublasLtMatmulAlgo_t);
  int fields = 0;
  for (const auto& word : parse_config(text)) {
    const std::string& key = word.first;
    if (key == "raw") {
      config.raw = word.second;
      if (config.raw.size() != kHexDigits ||
          config.raw.find_first_not_of("0123456789abcdef") != std::string::npos)
        fail_input("kernel settings \"{}\": raw has {} hexadecimal digits", printable(text), kHexDigits);
      continue;
    }
    ++fields;
    if (key == "algo") {
      config.algo = static_cast<int>(config_number(word, kInt));
    } else if (key == "tile") {
      config.tile = static_cast<unsigned>(config_number(word, kInt));
    } else if (key == "stages") {
      config.stages = static_cast<unsigned>(config_number(word, kInt));
    } else if (key == "splitk") {
      config.splitk =
          static_cast<int>(config_number(word, kInt, -1));  // -1: the algorithm splits as it likes
    } else if (key == "reduction") {
      config.reduction = static_cast<unsigned>(config_number(word, kInt));
    } else if (key == "swizzle") {
      config.swizzle = static_cast<unsigned>(config_number(word, kInt));
    } else if (key == "custom") {
      config.custom = static_cast<unsigned>(config_number(word, kInt));
    } else if (key == "inner") {
      config.inner = static_cast<unsigned>(config_number(word, UINT16_MAX));
    } else if (key == "cluster") {
      config.cluster = static_cast<unsigned>(config_number(word, UINT16_MAX));
    } else {
      fail_input("kernel settings \"{}\": cublaslt knows no {}", printable(text), printable(key));
    }
  }
  if (fields != 9) fail_input("kernel settings \"{}\": 9 fields were expected", printable(text));
  return config;
}

Feasibility cublaslt_supports(const GemmDesc& desc, const KernelDesc& kernel, int compute_capability) {
  const Method& method = method_of(kernel);
  if (Feasibility general = check_problem(desc); !general.ok) return general;
  if (method.w != desc.w) {
    return Feasibility::no(fmt::format("for {} weights", dtype_name(method.w)));
  }
  if (desc.layout == Layout::kDense && !desc.pattern.is_dense())
    return Feasibility::no("weights with a pattern come packed");
  if (desc.layout != Layout::kDense && desc.layout != Layout::kPacked)
    return Feasibility::no(fmt::format("{} weights have no dense form here", layout_name(desc.layout)));
  if (desc.w == DType::kF8E4M3 && compute_capability < 89)
    return Feasibility::no(fmt::format("FP8 needs compute capability 8.9, this card has {}.{}",
                                       compute_capability / 10, compute_capability % 10));
  if (method.outer_vector && compute_capability != 90)
    return Feasibility::no("cuBLASLt scales rows and columns on Hopper only");
  // Sums rounded to BF16 are off by up to half an ulp of theirs, which is many of the output's where the bias
  // cancels them.
  if (method.two_roundings && desc.bias)
    return Feasibility::no("rounds its sums before it adds the bias: more than 2 ulp where they cancel");
  if (method.tail) return {};
  if (desc.out != DType::kBF16) return Feasibility::no("writes BF16 only");
  if (desc.n % kAlignment != 0 || row_stride_out(desc) % (kAlignment / 2) != 0) {
    return Feasibility::no(
        fmt::format("N={} with row stride {}: multiples of {} and {} can be written directly", desc.n,
                    row_stride_out(desc), kAlignment, kAlignment / 2));
  }
  if (desc.bias && desc.bias_dtype != DType::kBF16) {
    return Feasibility::no(
        fmt::format("cuBLASLt adds a bias of BF16, this one is {}", dtype_name(desc.bias_dtype)));
  }
  return {};
}

Feasibility CublasLtBackend::available() const {
  if (!cuda_status().available) return Feasibility::no(cuda_status().reason);
  if (!cublaslt_library().usable()) return Feasibility::no(cublaslt_library().reason());
  return {};
}

std::string CublasLtBackend::version() const {
  return cuda_status().available ? cublaslt_library().version() : std::string();
}

std::vector<KernelDesc> CublasLtBackend::kernels() const {
  std::vector<KernelDesc> found;
  for (std::size_t i = 0; i < kMethods.size(); ++i) {
    KernelDesc kernel;
    kernel.backend = "cublaslt";
    kernel.name = kMethods[i].name;
    kernel.two_roundings = kMethods[i].two_roundings;
    kernel.id = static_cast<int>(i);
    found.push_back(std::move(kernel));
  }
  return found;
}

namespace {

// What the library's heuristics name for one method, likely ones first.
std::vector<KernelDesc> settings_of(const GemmDesc& desc, const KernelDesc& kernel) {
  if (desc.m == 0) return {kernel};
  const Planner planner(desc, method_of(kernel));
  std::vector<KernelDesc> found;
  std::vector<std::string> known;
  try {
    for (const auto& algo : planner.heuristics(planner.product(planner.sizes().tiles.rows), kHeuristics)) {
      std::string config = planner.config_of(algo).to_string();
      if (std::find(known.begin(), known.end(), config) != known.end()) continue;
      known.push_back(config);
      found.push_back(kernel);
      found.back().config = std::move(config);
    }
  } catch (const Error& error) {
    // The library has nothing for this type on this card; the other kernels stand.
    if (error.kind() != ErrorKind::kUnsupported) throw;
  }
  return found;
}

}  // namespace

std::vector<KernelDesc> CublasLtBackend::candidates(const GemmDesc& desc) const {
  // Heuristics take the library tens of milliseconds for each method, and it answers several threads at once.
  std::vector<std::future<std::vector<KernelDesc>>> asked;
  for (const KernelDesc& kernel : kernels()) {
    if (feasible(desc, kernel).ok)
      asked.push_back(std::async(std::launch::async, [&desc, kernel] { return settings_of(desc, kernel); }));
  }
  std::vector<KernelDesc> found;
  for (auto& one : asked) {
    for (KernelDesc& kernel : one.get()) found.push_back(std::move(kernel));
  }
  return found;
}

Feasibility CublasLtBackend::feasible(const GemmDesc& desc, const KernelDesc& kernel) const {
  if (Feasibility card = check_cuda_problem(desc); !card.ok) return card;
  if (!cublaslt_library().usable()) return Feasibility::no(cublaslt_library().reason());
  const auto& device = cuda_status().devices[static_cast<std::size_t>(desc.device.index)];
  return cublaslt_supports(desc, kernel, device.compute_capability());
}

Footprint CublasLtBackend::footprint(const GemmDesc& desc, const KernelDesc& kernel) const {
  const Sizes sizes = sizes_of(desc, method_of(kernel));
  return {cuda_weight_bytes(desc, CudaForm::kDense, sizes.k_padded, sizes.n_padded),
          sizes.workspace_bytes,
          desc.m,
          sizes.k_padded,
          0,
          cuda_weight_bytes(desc, CudaForm::kDense, sizes.k_padded, desc.n)};
}

std::string CublasLtBackend::weight_form(const GemmDesc& desc, const KernelDesc& kernel) const {
  const Sizes sizes = sizes_of(desc, method_of(kernel));
  return fmt::format("dense {}x{}", sizes.n_padded, sizes.k_padded);
}

std::unique_ptr<PreparedWeights> CublasLtBackend::prepare_weights(const WeightSource& source,
                                                                  const GemmDesc& desc,
                                                                  const KernelDesc& kernel) const {
  const Sizes sizes = sizes_of(desc, method_of(kernel));
  return std::make_unique<CudaWeights>(
      upload_weights(source, desc, CudaForm::kDense, sizes.k_padded, sizes.n_padded));
}

GemmPlan CublasLtBackend::plan(const GemmDesc& desc, const KernelDesc& kernel) const {
  if (const Feasibility answer = feasible(desc, kernel); !answer.ok)
    fail(ErrorKind::kUnsupported, "{}: {}: {}", desc.to_string(), kernel.name, answer.reason);
  const auto config = CublasLtConfig::parse(kernel.config);
  const Planner planner(desc, method_of(kernel));
  auto state = std::make_shared<CublasLtState>();
  state->sizes = planner.sizes();
  const TokenTiles& tiles = state->sizes.tiles;
  if (desc.m > 0) {
    state->full = planner.product(tiles.rows);
    if (config) {
      state->full.algo = planner.rebuild(*config);
      cublaslt_library().check(planner.judge(state->full, state->full.algo), "cublasLtMatmulAlgoCheck",
                               fmt::format("{} [{}]", desc.to_string(), kernel.config));
    } else {
      state->full.algo = planner.heuristics(state->full, 1).front();
    }
    state->last = planner.product(tiles.last);
    // Fewer tokens than the others: the same algorithm nearly always, else what the library likes there.
    state->last.algo = planner.judge(state->last, state->full.algo) == CUBLAS_STATUS_SUCCESS
                           ? state->full.algo
                           : planner.heuristics(state->last, 1).front();
  }
  return {desc, kernel, state->sizes.workspace_bytes, std::move(state)};
}

void CublasLtBackend::run(const GemmPlan& plan, const PreparedWeights& weights, const GemmArgs& args,
                          const Context& context) const {
  const GemmDesc& desc = plan.desc;
  if (desc.m == 0) return;
  const Method& method = method_of(plan.kernel);
  const auto& w = dynamic_cast<const CudaWeights&>(weights);
  const auto& state = *static_cast<const CublasLtState*>(plan.state.get());
  const Sizes& sizes = state.sizes;
  check_cuda_args(desc, args, kAlignment,
                  method.tail ? static_cast<std::int64_t>(dtype_size(desc.out)) : kAlignment);
  if (method.outer_vector && !aligned(args.x_scale, kAlignment))
    fail_input("{}: token scales at {} are not on a boundary of 16 bytes", desc.to_string(),
               fmt::ptr(args.x_scale));

  const Arena::Scope scope(*context.arena);
  void* const workspace = context.arena->allocate(static_cast<std::size_t>(kLibraryWorkspace));
  void* const sums =
      method.tail ? context.arena->allocate(static_cast<std::size_t>(sizes.sums_bytes)) : nullptr;
  const CublasLtLibrary& library = cublaslt_library();
  const Planner planner(desc, method);
  const auto element = static_cast<std::int64_t>(dtype_size(desc.x));
  const auto out_element = static_cast<std::int64_t>(dtype_size(desc.out));
  const float one_f = 1, zero_f = 0;
  const std::int32_t one_i = 1, zero_i = 0;
  const bool integers = desc.w == DType::kI8;
  for (std::int64_t tile = 0; tile < sizes.tiles.count; ++tile) {
    const bool last = tile + 1 == sizes.tiles.count;
    const std::int64_t first = tile * sizes.tiles.rows;
    // The library takes pointers to descriptors that it only reads as pointers to what it could change.
    Product product = last ? state.last : state.full;
    const float* x_scale = args.x_scale == nullptr ? nullptr : args.x_scale + first;
    cublasLtMatmulDescOpaque_t operation{};
    planner.set_up(operation, {w.scale_data(), x_scale, w.bias_bf16.data()});
    auto* const out = static_cast<std::byte*>(args.out) + first * row_stride_out(desc) * out_element;
    void* const d = method.tail ? sums : out;
    planner.check(
        library.matmul(cublaslt_handle(), &operation, integers ? static_cast<const void*>(&one_i) : &one_f,
                       w.values.data(), &product.w,
                       static_cast<const std::byte*>(args.x) + first * sizes.k_padded * element, &product.x,
                       integers ? static_cast<const void*>(&zero_i) : &zero_f, d, &product.d, d, &product.d,
                       &product.algo, workspace, static_cast<std::size_t>(kLibraryWorkspace),
                       static_cast<cudaStream_t>(context.stream)),
        "cublasLtMatmul");
    if (!method.tail) continue;
    cuda::TailArgs tail;
    tail.acc_dtype = sums_dtype(method.sums);
    tail.acc = sums;
    tail.ldacc = sizes.n_padded;
    tail.m = last ? desc.m - first : sizes.tiles.rows;
    tail.n = desc.n;
    tail.x_scale = x_scale;
    tail.w_scale = w.scale_data();
    tail.bias = w.bias_data();
    tail.out_dtype = desc.out;
    tail.out = out;
    tail.ldout = row_stride_out(desc);
    cuda_check(cuda::apply_tail(tail, context.stream), "apply_tail");
  }
}

}  // namespace slidesparse
