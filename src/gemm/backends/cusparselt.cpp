#include "gemm/backends/cusparselt.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/cuda/check.h"
#include "core/cuda/status.h"
#include "core/cuda/stream.h"
#include "core/fail.h"
#include "core/text.h"
#include "gemm/backends/common.h"
#include "gemm/backends/cuda_sums.h"
#include "gemm/backends/cuda_tiles.h"
#include "gemm/backends/cuda_weights.h"
#include "gemm/backends/cusparselt_library.h"
#include "gemm/backends/cusparselt_product.h"
#include "kernels/cuda/tail.h"

namespace slidesparse {
namespace {

using cusparselt::check;
using cusparselt::has_plan;
using cusparselt::kAlignment;
using cusparselt::kMethods;
using cusparselt::Matrix;
using cusparselt::Method;
using cusparselt::method_of;
using cusparselt::Product;
using cusparselt::Sizes;
using cusparselt::sizes_of;

// Whether parts of K could find idle multiprocessors: two full waves of the library's usual tiles leave none.
bool worth_splitting(const GemmDesc& desc) {
  constexpr std::int64_t kTile = 128;
  const auto& card = cuda_status().devices[static_cast<std::size_t>(desc.device.index)];
  return ceil_div(desc.n, kTile) * ceil_div(desc.m, kTile) < 2 * std::int64_t{card.multiprocessors};
}

// A setting, and at which of the numbers of tokens that were asked for the library has it.
struct KnownConfig {
  CusparseLtConfig config;
  bool few = false;
  bool many = false;
};
constexpr std::int64_t kFewTokens = 16;
constexpr std::int64_t kManyTokens = 4096;

// Settings that the library has for this layer at few or at many tokens. Most ids of its range are none, and
// asking for each at every M takes most of a tuner's time: remembered.
const std::vector<KnownConfig>& known_configs(const GemmDesc& desc, const Method& method) {
  using Key = std::tuple<const Method*, std::int64_t, std::int64_t, int, int>;
  static std::mutex mutex;
  static std::map<Key, std::vector<KnownConfig>> known;
  const std::scoped_lock lock(mutex);
  const auto [found, is_new] =
      known.try_emplace(Key(&method, desc.n, desc.k, desc.pattern.half_group(), desc.device.index));
  if (!is_new) return found->second;
  std::vector<KnownConfig>& configs = found->second;
  const auto ask = [&](std::int64_t m, bool KnownConfig::*there) {
    GemmDesc probe = desc;
    probe.m = m;
    int count = 0;
    try {
      const Sizes sizes = sizes_of(probe, method);
      count = Product(probe, method, sizes, sizes.tiles.rows, {}).algorithm_count(probe);
    } catch (const Error&) {
      return;
    }
    const auto add = [&](const CusparseLtConfig& config) {
      if (!has_plan(probe, method, config)) return;
      auto place = std::find_if(configs.begin(), configs.end(),
                                [&](const KnownConfig& other) { return other.config == config; });
      if (place == configs.end()) place = configs.insert(configs.end(), KnownConfig{config});
      (*place).*there = true;
    };
    for (int alg = 0; alg < count; ++alg) add({alg, 1, 0});
    for (int alg = 0; alg < count; ++alg) {
      for (const int mode : {CUSPARSELT_SPLIT_K_MODE_ONE_KERNEL, CUSPARSELT_SPLIT_K_MODE_TWO_KERNELS}) {
        for (const int splitk : {2, 4}) add({alg, splitk, mode});
      }
    }
  };
  ask(kFewTokens, &KnownConfig::few);
  ask(kManyTokens, &KnownConfig::many);
  return configs;
}

// What the library runs when it is not told: nothing when it does not multiply this at all.
std::optional<CusparseLtConfig> first_choice(const GemmDesc& desc, const Method& method) {
  try {
    const Sizes sizes = sizes_of(desc, method);
    const Product by_default(desc, method, sizes, sizes.tiles.rows, {});
    return CusparseLtConfig{by_default.algorithm_id(desc), 1, 0};
  } catch (const Error&) {
    return {};
  }
}

// Why the library does not multiply with this method on this card, asked once with a small problem; empty
// when it does.
const std::string& refusal(const Method& method) {
  static const std::array<std::string, kMethods.size()> kRefusals = [] {
    std::array<std::string, kMethods.size()> refusals;
    for (std::size_t i = 0; i < kMethods.size(); ++i) {
      GemmDesc desc;
      desc.m = desc.n = desc.k = 128;
      desc.x = desc.w = kMethods[i].w;
      desc.pattern = Pattern::of_half_group(2);
      desc.layout = Layout::kPacked;
      try {
        const Product product(desc, kMethods[i], sizes_of(desc, kMethods[i]), desc.m, {});
      } catch (const Error& error) {
        refusals[i] = fmt::format("cuSPARSELt {} refuses: {}", cusparselt_library().version(), error.what());
      }
    }
    return refusals;
  }();
  return kRefusals[static_cast<std::size_t>(&method - kMethods.data())];
}

struct CusparseLtState {
  CusparseLtState(const GemmDesc& desc, const KernelDesc& kernel) : sizes(sizes_of(desc, method_of(kernel))) {
    if (desc.m == 0) return;
    const auto config = CusparseLtConfig::parse(kernel.config);
    full = std::make_unique<Product>(desc, method_of(kernel), sizes, sizes.tiles.rows, config);
    library_bytes = full->workspace_bytes();
    if (sizes.tiles.last != sizes.tiles.rows) {
      last = std::make_unique<Product>(desc, method_of(kernel), sizes, sizes.tiles.last, config);
      library_bytes = std::max(library_bytes, last->workspace_bytes());
    }
  }

  std::int64_t workspace_bytes() const { return sizes.sums_bytes + library_bytes; }

  Sizes sizes;
  std::unique_ptr<Product> full;  // sizes.tiles.rows tokens; null for M = 0
  std::unique_ptr<Product> last;  // sizes.tiles.last tokens; null when that is as many
  std::int64_t library_bytes = 0;
};

// Who asks for a footprint asks for the plan next: the same state serves both.
std::shared_ptr<const CusparseLtState> state_of(const GemmDesc& desc, const KernelDesc& kernel) {
  static std::mutex mutex;
  static std::string last_key;
  // Until the next one is asked for; never destroyed, because the library may be gone by then.
  static auto& kept = *new std::shared_ptr<const CusparseLtState>;
  const std::string key =
      fmt::format("{} bias={} {} {} {} {} {} {}", desc.to_string(), desc.bias, kernel.name, kernel.config,
                  desc.ldx, desc.ldout, dtype_name(desc.out), desc.device.index);
  const std::scoped_lock lock(mutex);
  if (kept && key == last_key) return kept;
  kept = std::make_shared<const CusparseLtState>(desc, kernel);
  last_key = key;
  return kept;
}

// Some of the library's kernels (0.8 on Hopper, tiles of 64 x 64 x 256) read their metadata in blocks of 2
// KiB and up to 1.5 KiB beyond what cusparseLtSpMMACompressedSize2 says: memory that must be there.
constexpr std::int64_t kOverrun = 4096;

struct CusparseLtWeights : PreparedWeights {
  std::int64_t allocated_bytes() const override { return compressed.size() + scales.size() + bias.size(); }
  DeviceBuffer compressed;  // the library's own layout
  DeviceBuffer scales;      // FP32 [n_padded]
  DeviceBuffer bias;        // FP32 [n_padded]; empty without
};

// Bytes of the compressed matrix and of the scratch that compressing takes.
std::pair<std::size_t, std::size_t> compressed_sizes(const GemmDesc& desc, const Matrix& matrix) {
  std::size_t bytes = 0, scratch = 0;
  check(cusparselt_library().compressed_size(cusparselt_handle(), matrix.get(), &bytes, &scratch),
        "cusparseLtSpMMACompressedSize2", desc);
  return {bytes, scratch};
}

}  // namespace

std::string cusparselt_problem(std::string_view option) {
  return CusparseLtLibrary(option).reason();
}

std::string CusparseLtConfig::to_string() const {
  if (splitk == 1) return fmt::format("alg={}", alg);
  return fmt::format("alg={} splitk={} mode={}", alg, splitk, mode);
}

std::optional<CusparseLtConfig> CusparseLtConfig::parse(std::string_view text) {
  if (text.empty()) return {};
  CusparseLtConfig config;
  bool has_alg = false;
  for (const auto& word : parse_config(text)) {
    if (word.first == "alg") {
      config.alg = static_cast<int>(config_number(word, INT32_MAX));
      has_alg = true;
    } else if (word.first == "splitk") {
      config.splitk = static_cast<int>(config_number(word, INT32_MAX));
    } else if (word.first == "mode") {
      config.mode = static_cast<int>(config_number(word, CUSPARSELT_STREAMK));
    } else {
      fail_input("kernel settings \"{}\": cusparselt knows no {}", printable(text), printable(word.first));
    }
  }
  if (!has_alg || config.to_string() != text)
    fail_input("kernel settings \"{}\": \"alg=12\" or \"alg=12 splitk=2 mode=2\" was expected",
               printable(text));
  return config;
}

Feasibility cusparselt_supports(const GemmDesc& desc, const KernelDesc& kernel, int compute_capability) {
  const Method& method = method_of(kernel);
  if (Feasibility general = check_problem(desc); !general.ok) return general;
  if (method.w != desc.w) return Feasibility::no(fmt::format("for {} weights", dtype_name(method.w)));
  if (desc.pattern.is_dense()) return Feasibility::no("dense weights are not 2:4, and cannot be slid to it");
  if (desc.layout != Layout::kPacked) {
    return Feasibility::no(fmt::format("slides packed weights, these are {}", layout_name(desc.layout)));
  }
  // Sums rounded to BF16 are off by up to half an ulp of theirs, which is many of the output's where the bias
  // cancels them.
  if (method.two_roundings && desc.bias)
    return Feasibility::no("rounds its sums before it adds the bias: more than 2 ulp where they cancel");
  if (compute_capability < 80) return Feasibility::no("sparse tensor cores need compute capability 8.0");
  if (desc.w == DType::kF8E4M3 && compute_capability < 89)
    return Feasibility::no(fmt::format("FP8 needs compute capability 8.9, this card has {}.{}",
                                       compute_capability / 10, compute_capability % 10));
  return {};
}

Feasibility CusparseLtBackend::available() const {
  if (!cuda_status().available) return Feasibility::no(cuda_status().reason);
  if (!cusparselt_library().usable()) return Feasibility::no(cusparselt_library().reason());
  return {};
}

std::string CusparseLtBackend::version() const {
  return cuda_status().available ? cusparselt_library().version() : std::string();
}

std::vector<KernelDesc> CusparseLtBackend::kernels() const {
  std::vector<KernelDesc> found;
  for (std::size_t i = 0; i < kMethods.size(); ++i) {
    KernelDesc kernel;
    kernel.backend = "cusparselt";
    kernel.name = kMethods[i].name;
    kernel.sparse = true;
    kernel.two_roundings = kMethods[i].two_roundings;
    kernel.id = static_cast<int>(i);
    found.push_back(std::move(kernel));
  }
  return found;
}

std::vector<KernelDesc> CusparseLtBackend::candidates(const GemmDesc& desc) const {
  std::vector<KernelDesc> found;
  for (const KernelDesc& kernel : kernels()) {
    if (!feasible(desc, kernel).ok) continue;
    if (desc.m == 0) {
      found.push_back(kernel);
      continue;
    }
    const Method& method = method_of(kernel);
    const std::optional<CusparseLtConfig> first = first_choice(desc, method);
    const auto add = [&](const CusparseLtConfig& config) {
      found.push_back(kernel);
      found.back().config = config.to_string();
      // One kernel adds its parts in the order in which they come.
      found.back().reproducible = config.mode != CUSPARSELT_SPLIT_K_MODE_ONE_KERNEL;
    };
    if (first && has_plan(desc, method, *first)) add(*first);
    for (const auto& [config, few, many] : known_configs(desc, method)) {
      if (config == first || (config.splitk > 1 && !worth_splitting(desc))) continue;
      // What it has for few and for many tokens it has for those between.
      if ((few && many) || has_plan(desc, method, config)) add(config);
    }
  }
  return found;
}

Feasibility CusparseLtBackend::feasible(const GemmDesc& desc, const KernelDesc& kernel) const {
  if (Feasibility card = check_cuda_problem(desc); !card.ok) return card;
  if (!cusparselt_library().usable()) return Feasibility::no(cusparselt_library().reason());
  const auto& device = cuda_status().devices[static_cast<std::size_t>(desc.device.index)];
  if (Feasibility rules = cusparselt_supports(desc, kernel, device.compute_capability()); !rules.ok)
    return rules;
  // Types and the vector of scales differ between cards and versions: 0.8 on Hopper has no vector for FP8.
  if (const std::string& why = refusal(method_of(kernel)); !why.empty()) return Feasibility::no(why);
  return {};
}

Footprint CusparseLtBackend::footprint(const GemmDesc& desc, const KernelDesc& kernel) const {
  const auto made = state_of(desc, kernel);
  const CusparseLtState& state = *made;
  Matrix matrix;
  matrix.init_structured(desc, state.sizes);
  const auto compressed = static_cast<std::int64_t>(compressed_sizes(desc, matrix).first) + kOverrun;
  const std::int64_t vectors = state.sizes.n_padded * 4 * (desc.bias ? 2 : 1);
  Footprint footprint;
  footprint.weight_bytes = compressed + vectors;
  footprint.workspace_bytes = state.workspace_bytes();
  footprint.m_padded = state.sizes.m_padded;
  footprint.k_padded = state.sizes.k_padded;
  footprint.lift = desc.pattern.half_group() == 2 ? 0 : desc.pattern.half_group();
  footprint.weight_bytes_read = compressed - kOverrun + vectors;
  return footprint;
}

std::string CusparseLtBackend::weight_form(const GemmDesc& desc, const KernelDesc& kernel) const {
  const Sizes sizes = sizes_of(desc, method_of(kernel));
  return fmt::format("compressed {}x{}", sizes.n_padded, sizes.k_padded);
}

std::unique_ptr<PreparedWeights> CusparseLtBackend::prepare_weights(const WeightSource& source,
                                                                    const GemmDesc& desc,
                                                                    const KernelDesc& kernel) const {
  const Sizes sizes = sizes_of(desc, method_of(kernel));
  // Slid from packed values and valid codes it is 2:4 by construction (format/slide): nothing to prune.
  CudaWeights slid = upload_weights(source, desc, CudaForm::kSlid, sizes.k_padded, sizes.n_padded);
  Matrix matrix;
  matrix.init_structured(desc, sizes);
  const auto [bytes, scratch_bytes] = compressed_sizes(desc, matrix);
  auto weights = std::make_unique<CusparseLtWeights>();
  weights->compressed = DeviceBuffer(static_cast<std::int64_t>(bytes) + kOverrun, "weights");
  DeviceBuffer scratch(static_cast<std::int64_t>(scratch_bytes), "weight staging");
  const CudaStream stream;
  check(cusparselt_library().compress(cusparselt_handle(), matrix.get(), 1, CUSPARSE_OPERATION_NON_TRANSPOSE,
                                      slid.values.data(), weights->compressed.data(), scratch.data(),
                                      static_cast<cudaStream_t>(stream.handle())),
        "cusparseLtSpMMACompress2", desc);
  stream.synchronize();
  weights->scales = std::move(slid.scales);
  weights->bias = std::move(slid.bias);
  return weights;
}

GemmPlan CusparseLtBackend::plan(const GemmDesc& desc, const KernelDesc& kernel) const {
  if (const Feasibility answer = feasible(desc, kernel); !answer.ok)
    fail(ErrorKind::kUnsupported, "{}: {}: {}", desc.to_string(), kernel.name, answer.reason);
  auto state = state_of(desc, kernel);
  const std::int64_t bytes = state->workspace_bytes();
  return {desc, kernel, bytes, std::move(state)};
}

void CusparseLtBackend::run(const GemmPlan& plan, const PreparedWeights& weights, const GemmArgs& args,
                            const Context& context) const {
  const GemmDesc& desc = plan.desc;
  if (desc.m == 0) return;
  const Method& method = method_of(plan.kernel);
  const auto& w = dynamic_cast<const CusparseLtWeights&>(weights);
  const auto& state = *static_cast<const CusparseLtState*>(plan.state.get());
  const Sizes& sizes = state.sizes;
  const auto out_element = static_cast<std::int64_t>(dtype_size(desc.out));
  check_cuda_args(desc, args, kAlignment, out_element);

  const Arena::Scope scope(*context.arena);
  void* const sums = context.arena->allocate(static_cast<std::size_t>(sizes.sums_bytes));
  void* const workspace = state.library_bytes == 0
                              ? nullptr
                              : context.arena->allocate(static_cast<std::size_t>(state.library_bytes));
  auto stream = static_cast<cudaStream_t>(context.stream);
  const float one = 1, zero = 0;
  for (std::int64_t tile = 0; tile < sizes.tiles.count; ++tile) {
    const bool last = tile + 1 == sizes.tiles.count;
    const std::int64_t first = tile * sizes.tiles.rows;
    const Product& product = last && state.last != nullptr ? *state.last : *state.full;
    check(cusparselt_library().matmul(cusparselt_handle(), product.plan(),
                                      method.alpha_vector ? static_cast<const void*>(w.scales.data()) : &one,
                                      w.compressed.data(),
                                      static_cast<const std::byte*>(args.x) + first * sizes.k_padded, &zero,
                                      sums, sums, workspace, &stream, 1),
          "cusparseLtMatmul", desc);
    cuda::TailArgs tail;
    tail.acc_dtype = sums_dtype(method.sums);
    tail.acc = sums;
    tail.ldacc = sizes.n_padded;
    tail.m = last ? sizes.tiles.last : sizes.tiles.rows;
    tail.n = desc.n;
    tail.x_scale = args.x_scale + first;
    tail.w_scale = method.alpha_vector ? nullptr : w.scales.as<float>();
    tail.bias = w.bias.size() == 0 ? nullptr : w.bias.as<float>();
    tail.out_dtype = desc.out;
    tail.out = static_cast<std::byte*>(args.out) + first * row_stride_out(desc) * out_element;
    tail.ldout = row_stride_out(desc);
    cuda_check(cuda::apply_tail(tail, context.stream), "apply_tail");
  }
}

}  // namespace slidesparse
