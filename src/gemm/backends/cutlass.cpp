#include "gemm/backends/cutlass.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/cuda/check.h"
#include "core/cuda/status.h"
#include "core/fail.h"
#include "core/text.h"
#include "gemm/backends/common.h"
#include "gemm/backends/cuda_weights.h"
#include "gemm/backends/cutlass/variant.h"
#include "kernels/cuda/tail.h"

namespace slidesparse {
namespace {

using cutlass_gemm::Problem;
using cutlass_gemm::Schedule;
using cutlass_gemm::Variant;

constexpr std::int64_t kWorkspaceAlignment = 256;
constexpr std::int64_t kPointerAlignment = 16;  // of what the copy engine reads and writes
constexpr int kMostSplits = 16;
constexpr int kLargestSwizzle = 8;

// Sizes are 32-bit numbers inside the kernels, rounded up to tiles.
constexpr std::int64_t kLargestSize = std::numeric_limits<std::int32_t>::max() - 1024;

std::string_view type_words(DType dtype) {
  return dtype == DType::kF8E4M3 ? "fp8 fast-accum" : "int8";
}

KernelDesc describe(const Variant& variant, int id) {
  KernelDesc description;
  description.backend = "cutlass";
  description.name = fmt::format("cutlass/{} {}", type_words(variant.dtype), variant_name(variant));
  description.id = id;
  return description;
}

const Variant& variant_of(const KernelDesc& kernel) {
  const auto list = cutlass_gemm::variants();
  require(kernel.backend == "cutlass" && kernel.id >= 0 && kernel.id < static_cast<int>(list.size()),
          "kernel \"{}\" (id {}) is not one of the cutlass backend's {}", kernel.name, kernel.id,
          list.size());
  return list[static_cast<std::size_t>(kernel.id)];
}

struct Settings {
  int swizzle = 0;  // 0: by the size of the problem
  int splits = 1;
};

// "swizzle=4 splits=2", in any order; an empty text is the default. Throws kInput when it says something
// else.
Settings read_settings(const KernelDesc& kernel) {
  const bool cuts = variant_of(kernel).schedule == Schedule::kStreamK;
  Settings settings;
  for (const auto& word : parse_config(kernel.config)) {
    if (word.first == "swizzle") {
      settings.swizzle = static_cast<int>(config_number(word, kLargestSwizzle));
      if (settings.swizzle != 0 && std::has_single_bit(static_cast<unsigned>(settings.swizzle))) continue;
    } else if (word.first == "splits" && cuts) {
      settings.splits = static_cast<int>(config_number(word, kMostSplits));
      continue;
    }
    fail_input("kernel setting {}={}: swizzle=1|2|4|8 is possible, and with stream-k kernels splits=0..{}",
               printable(word.first, 40), printable(word.second, 40), kMostSplits);
  }
  return settings;
}

std::int64_t padded_k(const GemmDesc& desc) {
  return round_up(desc.k, 16);
}
// No kernel needs it: so that the form is the same as cuBLASLt's.
std::int64_t padded_n(const GemmDesc& desc) {
  return round_up(desc.n, 16);
}

// Rows that the copy engine cannot write are written beside the kernel's own workspace and copied: it wants
// strides of whole 16 bytes, and it writes whole 16 bytes at the end of a row too.
bool is_staged(const GemmDesc& desc) {
  return desc.n % 8 != 0 || row_stride_out(desc) % 8 != 0;
}
std::int64_t staged_stride(const GemmDesc& desc) {
  return round_up(desc.n, 8);
}

// Measured on an H200: bands pay only for matrices of very many channels.
int usual_swizzle(const GemmDesc& desc, const Variant& variant) {
  return desc.n >= std::int64_t{128} * variant.tile_channels && desc.m >= 8 * variant.tile_tokens ? 4 : 1;
}

// Without pointers.
Problem problem_of(const GemmDesc& desc, const KernelDesc& kernel) {
  const Variant& variant = variant_of(kernel);
  const Settings settings = read_settings(kernel);
  Problem problem;
  problem.channels = desc.n;
  problem.tokens = desc.m;
  problem.k = padded_k(desc);
  problem.ldx = padded_k(desc);
  problem.ldout = is_staged(desc) ? staged_stride(desc) : row_stride_out(desc);
  problem.multiprocessors = multiprocessors(desc);
  problem.splits = settings.splits;
  problem.swizzle = settings.swizzle != 0 ? settings.swizzle : usual_swizzle(desc, variant);
  return problem;
}

// Cycles of one multiprocessor, roughly (measured on an H200): what candidates are ordered by. A tile costs
// its multiplications or its bytes, whichever is more, and its way out; stream-K shares tiles evenly and pays
// for the sums that it hands over.
double expected_cycles(const GemmDesc& desc, const KernelDesc& kernel) {
  constexpr double kProductsPerCycle = 4096;
  constexpr double kBytesPerCycle = 56;
  constexpr double kWeightBytesPerCycle = 2300;  // of the whole card
  constexpr double kHandOver = 15000;
  constexpr double kCutTiles = 1.2;  // fewer stages and less sharing than whole tiles
  constexpr double kChange = 6000;   // from one cooperative tile to the next: nobody multiplies
  constexpr double kAgain = 0.4;     // of the weights' bytes for every further column of tiles
  const Variant& variant = variant_of(kernel);
  const Settings settings = read_settings(kernel);
  const double processors = multiprocessors(desc);
  const auto k = static_cast<double>(padded_k(desc));
  const double area = double{1} * variant.tile_channels * variant.tile_tokens;
  const auto tiles =
      static_cast<double>(ceil_div(desc.n, variant.tile_channels) * ceil_div(desc.m, variant.tile_tokens));
  const double rows = variant.tile_channels + variant.tile_tokens;
  const double loop = std::max(area * k / kProductsPerCycle, rows * k / kBytesPerCycle);
  const double out = area * 2 / kBytesPerCycle;
  const double waves = std::ceil(tiles / processors);
  const auto columns = static_cast<double>(ceil_div(desc.m, variant.tile_tokens));
  const double memory = static_cast<double>(desc.n) * k / kWeightBytesPerCycle * (1 + kAgain * (columns - 1));
  if (variant.schedule == Schedule::kPingpong) return std::max(waves * loop, memory) + out;
  if (variant.schedule == Schedule::kCooperative || settings.splits == 0)
    return std::max(waves * loop + (waves - 1) * kChange, memory * kCutTiles) + out;
  const double shared = settings.splits == 1
                            ? loop * std::max(tiles / processors, 1024 / k)
                            : loop / settings.splits * std::ceil(tiles * settings.splits / processors);
  return std::max(shared * kCutTiles, memory) + waves * out + kHandOver;
}

// What plan() makes: everything but the pointers.
struct CutlassPlan {
  Variant variant;
  Problem problem;
  std::int64_t staged_offset = 0;
  bool staged = false;
};

std::int64_t kernel_workspace(const GemmDesc& desc, const KernelDesc& kernel) {
  if (desc.m == 0) return 0;
  return round_up(variant_of(kernel).workspace_bytes(problem_of(desc, kernel)), kWorkspaceAlignment);
}

}  // namespace

Feasibility CutlassBackend::available() const {
  if (cutlass_gemm::variants().empty())
    return Feasibility::no(
        "this build has none of its kernels: CUTLASS's headers were not found when it was configured");
  return hopper_available();
}

std::string CutlassBackend::version() const {
  return cutlass_gemm::version();
}

std::vector<KernelDesc> CutlassBackend::kernels() const {
  std::vector<KernelDesc> list;
  for (const Variant& variant : cutlass_gemm::variants())
    list.push_back(describe(variant, static_cast<int>(list.size())));
  return list;
}

std::vector<KernelDesc> CutlassBackend::candidates(const GemmDesc& desc) const {
  std::vector<KernelDesc> found;
  for (const KernelDesc& kernel : kernels()) {
    if (!feasible(desc, kernel).ok) continue;
    const Variant& variant = variant_of(kernel);
    // Tiles that would be mostly empty, and small ones for many tokens.
    if (variant.tile_tokens > 2 * round_up(desc.m, 32)) continue;
    if (variant.tile_tokens < 128 && desc.m > 16 * variant.tile_tokens) continue;
    const auto add = [&](std::string config) {
      found.push_back(kernel);
      found.back().config = std::move(config);
    };
    add({});
    const std::int64_t tiles =
        ceil_div(desc.n, variant.tile_channels) * ceil_div(desc.m, variant.tile_tokens);
    const int processors = multiprocessors(desc);
    if (variant.schedule == Schedule::kStreamK) {
      add("splits=0");
      for (const int splits : {2, 3, 4}) {
        if (tiles * splits <= 2 * processors && padded_k(desc) >= std::int64_t{4} * splits * variant.tile_k)
          add(fmt::format("splits={}", splits));
      }
    } else if (tiles > 4 * processors && variant.tile_tokens >= 128) {
      for (const int swizzle : {1, 2, 4}) {
        if (swizzle != usual_swizzle(desc, variant)) add(fmt::format("swizzle={}", swizzle));
      }
    }
  }
  std::stable_sort(found.begin(), found.end(), [&desc](const KernelDesc& a, const KernelDesc& b) {
    return expected_cycles(desc, a) < expected_cycles(desc, b);
  });
  return found;
}

Feasibility CutlassBackend::feasible(const GemmDesc& desc, const KernelDesc& kernel) const {
  const Variant& variant = variant_of(kernel);
  if (Feasibility general = check_problem(desc); !general.ok) return general;
  if (desc.device.kind != DeviceKind::kCuda) return Feasibility::no("runs on Hopper GPUs only");
  if (desc.w != variant.dtype)
    return Feasibility::no(fmt::format("for {} weights", dtype_name(variant.dtype)));
  if (desc.layout != Layout::kDense && desc.layout != Layout::kPacked)
    return Feasibility::no(
        fmt::format("for dense weights, or packed ones to expand, not {}", layout_name(desc.layout)));
  if (desc.layout == Layout::kDense && !desc.pattern.is_dense())
    return Feasibility::no(fmt::format("dense weights with pattern {}", desc.pattern.to_string()));
  if (desc.out != DType::kBF16)
    return Feasibility::no(fmt::format("writes BF16, not {}", dtype_name(desc.out)));
  if (std::max({desc.m, desc.n, desc.k}) > kLargestSize) {
    return Feasibility::no(
        fmt::format("M={} N={} K={}: sizes up to {} are possible", desc.m, desc.n, desc.k, kLargestSize));
  }
  try {
    read_settings(kernel);
  } catch (const Error& error) {
    return Feasibility::no(error.what());
  }
  if (Feasibility card = check_cuda_problem(desc); !card.ok) return card;
  const CudaDeviceInfo& info = cuda_status().devices[static_cast<std::size_t>(desc.device.index)];
  if (info.compute_capability() != 90) {
    return Feasibility::no(fmt::format("its kernels are for compute capability 9.0, {} has {}.{}", info.name,
                                       info.major, info.minor));
  }
  return {};
}

Footprint CutlassBackend::footprint(const GemmDesc& desc, const KernelDesc& kernel) const {
  Footprint footprint;
  footprint.weight_bytes = cuda_weight_bytes(desc, CudaForm::kDense, padded_k(desc), padded_n(desc));
  footprint.weight_bytes_read = cuda_weight_bytes(desc, CudaForm::kDense, padded_k(desc), desc.n);
  footprint.workspace_bytes = kernel_workspace(desc, kernel);
  // Whole units of what arenas hand out.
  if (is_staged(desc))
    footprint.workspace_bytes += round_up(desc.m * staged_stride(desc) * 2, kWorkspaceAlignment);
  footprint.m_padded = desc.m;
  footprint.k_padded = padded_k(desc);
  return footprint;
}

std::string CutlassBackend::weight_form(const GemmDesc& desc, const KernelDesc&) const {
  return fmt::format("dense {}x{}", padded_n(desc), padded_k(desc));
}

std::unique_ptr<PreparedWeights> CutlassBackend::prepare_weights(const WeightSource& source,
                                                                 const GemmDesc& desc,
                                                                 const KernelDesc&) const {
  return std::make_unique<CudaWeights>(
      upload_weights(source, desc, CudaForm::kDense, padded_k(desc), padded_n(desc)));
}

GemmPlan CutlassBackend::plan(const GemmDesc& desc, const KernelDesc& kernel) const {
  const Feasibility answer = feasible(desc, kernel);
  require(answer.ok, "{} cannot run {}: {}", kernel.name, desc.to_string(), answer.reason);
  auto state = std::make_shared<CutlassPlan>();
  state->variant = variant_of(kernel);
  state->problem = problem_of(desc, kernel);
  state->staged_offset = kernel_workspace(desc, kernel);
  state->staged = is_staged(desc);
  if (desc.m > 0) {
    Problem rounded = state->problem;  // CUTLASS wants whole 16 bytes of channels; only the stride needs them
    rounded.channels = round_up(rounded.channels, 8);
    require(state->variant.can_implement(rounded), "{} was refused by CUTLASS for {}", kernel.name,
            desc.to_string());
    cuda_check(state->variant.prepare(), "cudaFuncSetAttribute", kernel.name);
  }
  return {desc, kernel, footprint(desc, kernel).workspace_bytes, std::move(state)};
}

void CutlassBackend::run(const GemmPlan& plan, const PreparedWeights& weights, const GemmArgs& args,
                         const Context& context) const {
  const GemmDesc& desc = plan.desc;
  if (desc.m == 0) return;
  const auto& state = *static_cast<const CutlassPlan*>(plan.state.get());
  const auto& matrix = dynamic_cast<const CudaWeights&>(weights);
  // Messages are made only when there is something to say: a call has microseconds.
  check_cuda_args(desc, args, kPointerAlignment, state.staged ? 2 : kPointerAlignment);
  if (matrix.ld != state.problem.k || matrix.n_padded < desc.n ||
      (matrix.bias_data() != nullptr) != desc.bias) {
    fail(ErrorKind::kInternal, "{}: weights of {} rows of {} with {} bias are another problem's",
         desc.to_string(), matrix.n_padded, matrix.ld, matrix.bias_data() != nullptr ? "a" : "no");
  }
  if (context.arena == nullptr) fail(ErrorKind::kInternal, "{}: no arena", desc.to_string());
  const Arena::Scope scope(*context.arena);
  auto* workspace =
      static_cast<std::byte*>(context.arena->allocate(static_cast<std::size_t>(plan.workspace_bytes)));

  Problem problem = state.problem;
  problem.w = matrix.values.data();
  problem.x = args.x;
  problem.w_scale = matrix.scale_data();
  problem.x_scale = args.x_scale;
  problem.bias = matrix.bias_data();
  problem.out = state.staged ? workspace + state.staged_offset : args.out;
  cuda_check(state.variant.run(problem, workspace, context.stream), plan.kernel.name);
  if (!state.staged) return;
  // Scales of 1: what was rounded stays as it is.
  cuda::TailArgs copy;
  copy.acc_dtype = DType::kBF16;
  copy.acc = problem.out;
  copy.ldacc = problem.ldout;
  copy.m = desc.m;
  copy.n = desc.n;
  copy.out_dtype = DType::kBF16;
  copy.out = args.out;
  copy.ldout = row_stride_out(desc);
  cuda_check(cuda::apply_tail(copy, context.stream), "apply_tail");
}

}  // namespace slidesparse
