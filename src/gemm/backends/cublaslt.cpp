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
#include "gemm/backends/cublaslt_planner.h"
#include "gemm/backends/cuda_sums.h"
#include "gemm/backends/cuda_tiles.h"
#include "gemm/backends/cuda_weights.h"
#include "kernels/cuda/tail.h"

namespace slidesparse {
namespace {

using cublaslt::kAlignment;
using cublaslt::kLibraryWorkspace;
using cublaslt::kMethods;
using cublaslt::Method;
using cublaslt::method_of;
using cublaslt::Planner;
using cublaslt::Product;
using cublaslt::Sizes;
using cublaslt::sizes_of;

constexpr int kHeuristics = 32;

struct CublasLtState {
  Sizes sizes;
  Product full;  // tiles.rows tokens
  Product last;  // tiles.last tokens
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
  if (desc.out != sums_dtype(method.sums))
    return Feasibility::no(fmt::format("writes {} only", dtype_name(sums_dtype(method.sums))));
  if (desc.bias && desc.out != DType::kBF16) return Feasibility::no("adds a bias to BF16 only");
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
