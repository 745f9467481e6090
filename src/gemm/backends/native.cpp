#include "gemm/backends/native.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/cuda/check.h"
#include "core/cuda/status.h"
#include "core/cuda/stream.h"
#include "core/fail.h"
#include "core/text.h"
#include "gemm/backends/common.h"
#include "gemm/backends/cuda_weights.h"
#include "kernels/sm90/sm90_format.h"
#include "kernels/sm90/sm90_variant.h"
#include "slidesparse/format/split.h"

namespace slidesparse {
namespace {

using sm90::Schedule;
using sm90::Variant;

constexpr std::int64_t kPointerAlignment = 16;  // of what the copy engine reads and writes
constexpr int kMostPanel = 256;
constexpr int kMostSplits = 8;  // blocks of a cluster
// Tile counts and coordinates are 32-bit numbers.
constexpr std::int64_t kLargestSize = std::int64_t{1} << 30;

const char* product_name(DType dtype) {
  switch (dtype) {
    case DType::kF8E4M3:
      return "fp8 fast-accum";
    case DType::kI8:
      return "int8";
    default:
      return "bf16";
  }
}

// Every variant twice: for weights with 2:4 steps and for dense ones.
std::vector<KernelDesc> list_kernels() {
  std::vector<KernelDesc> list;
  for (const bool sparse : {true, false}) {
    for (const Variant& variant : sm90::variants()) {
      KernelDesc kernel;
      kernel.backend = "native";
      kernel.name = fmt::format("native/{} {} {}", product_name(variant.dtype), sparse ? "sparse" : "dense",
                                variant_name(variant));
      kernel.sparse = sparse;
      kernel.id = static_cast<int>(list.size());
      list.push_back(std::move(kernel));
    }
  }
  return list;
}

const Variant& variant_of(const KernelDesc& kernel) {
  const auto list = sm90::variants();
  const auto count = static_cast<int>(list.size());
  require(kernel.backend == "native" && kernel.id >= 0 && kernel.id < 2 * count,
          "kernel \"{}\" (id {}) is not one of the native backend's {}", kernel.name, kernel.id, 2 * count);
  return list[static_cast<std::size_t>(kernel.id % count)];
}

// How the stored rows are read: lanes of 2:4 windows, lanes that are dense.
struct Lanes {
  std::int64_t sparse = 0;
  std::int64_t dense = 0;
  int half_group = 2;  // of the windows' codes
};
Lanes lanes_of(const GemmDesc& desc) {
  switch (desc.layout) {
    case Layout::kSplit: {
      const SplitShape shape = split_shape(desc.pattern, desc.k);
      return {shape.sparse, shape.dense, 2};
    }
    case Layout::kPacked:
      return {desc.pattern.lifted_k(desc.k), 0, desc.pattern.half_group()};
    default:
      return {0, desc.k, 2};
  }
}
Schedule schedule_of(const GemmDesc& desc) {
  const Lanes lanes = lanes_of(desc);
  return sm90::schedule_of(lanes.sparse, lanes.dense, static_cast<int>(dtype_size(desc.w)));
}

std::int64_t blocks_of(const GemmDesc& desc) {
  return ceil_div(desc.n, sm90::kBlockRows);
}
std::int64_t padded_vector_bytes(const GemmDesc& desc) {
  GemmDesc padded = desc;
  padded.n = blocks_of(desc) * sm90::kBlockRows;
  return vector_bytes(padded);
}

// Activations of a panel should stay in half of the L2 (measured with 8 bits: 16 tiles of 256 tokens at
// K = 3584, 8 at 18944).
int usual_panel(const GemmDesc& desc, const Variant& variant) {
  constexpr std::int64_t kPanelTokens = 4096;
  constexpr std::int64_t kLongRow = 8192;  // bytes
  const std::int64_t row = std::int64_t{schedule_of(desc).stages()} * sm90::kStageBytes;
  const std::int64_t tokens = row > kLongRow ? kPanelTokens / 2 : kPanelTokens;
  return static_cast<int>(tokens / variant.tile_tokens);
}

struct Settings {
  int panel = 1;
  int splits = 1;
};

// Clusters of so many blocks fill the card about once, and every block has some stages.
int usual_splits(const GemmDesc& desc, const Variant& variant) {
  constexpr int kFewestStages = 4;
  if (variant.split_blocks == 0) return 1;
  const std::int64_t tiles = ceil_div(desc.n, variant.tile_channels) * ceil_div(desc.m, variant.tile_tokens);
  int splits = 1;
  while (2 * splits <= kMostSplits &&
         tiles * 2 * splits <= std::int64_t{variant.split_blocks} * multiprocessors(desc) &&
         schedule_of(desc).stages() >= kFewestStages * 2 * splits) {
    splits *= 2;
  }
  return splits;
}

// "panel=8", and with kernels that split K "splits=4"; an empty text is the default. Throws kInput when it
// says something else.
Settings read_settings(const GemmDesc& desc, const KernelDesc& kernel) {
  const Variant& variant = variant_of(kernel);
  Settings settings{usual_panel(desc, variant), usual_splits(desc, variant)};
  for (const auto& word : parse_config(kernel.config)) {
    if (word.first == "panel") {
      settings.panel = static_cast<int>(config_number(word, kMostPanel, 1));
    } else if (word.first == "splits" && variant.split_blocks > 0) {
      settings.splits = static_cast<int>(config_number(word, kMostSplits, 1));
      if (settings.splits > schedule_of(desc).stages()) {
        const Schedule schedule = schedule_of(desc);
        fail_input("kernel setting splits={}: K has {} parts of {}", settings.splits, schedule.stages(),
                   schedule.lanes() / schedule.stages());
      }
    } else {
      fail_input("kernel setting {}={}: panel=1..{} is possible, and with split-k kernels splits=1..{}",
                 printable(word.first, 40), printable(word.second, 40), kMostPanel, kMostSplits);
    }
  }
  return settings;
}

// Cycles of one multiprocessor, roughly: what candidates are ordered by. A stage costs its multiplications,
// or its bytes on their way from L2.
double expected_cycles(const GemmDesc& desc, const Variant& variant) {
  constexpr double kBytesPerCycle = 45;
  constexpr double kTileCycles = 2500;  // its start and its way out
  const Schedule schedule = schedule_of(desc);
  const double consumers = double{1} * variant.tile_channels / sm90::kBlockRows;
  const double steps = schedule.sparse_steps() + 2.0 * (2 * schedule.stages() - schedule.sparse_steps());
  const double products = steps * consumers * variant.tile_tokens / 2;
  const double bytes =
      consumers * static_cast<double>(schedule.block_bytes()) +
      double{1} * variant.tile_tokens / variant.cluster * schedule.stages() * sm90::kStageBytes;
  const auto tiles =
      static_cast<double>(ceil_div(desc.n, std::int64_t{variant.tile_channels} * variant.cluster) *
                          ceil_div(desc.m, variant.tile_tokens));
  const int whole_clusters = multiprocessors(desc) / variant.cluster;
  const double clusters = whole_clusters;
  if (variant.split_blocks > 0) {
    const double splits = usual_splits(desc, variant), blocks = variant.split_blocks;
    const double rounds = std::max(1.0, tiles * splits / (blocks * clusters));
    return rounds * (blocks * std::max(products, bytes / kBytesPerCycle) / splits + kTileCycles);
  }
  const double waves = std::ceil(tiles / clusters);
  return waves * (std::max(products, bytes / kBytesPerCycle) + kTileCycles);
}

struct NativeWeights : PreparedWeights {
  std::int64_t allocated_bytes() const override {
    return blocks.size() + vectors.scales.size() + vectors.bias.size() + order.size();
  }
  const std::int32_t* input_order() const override {
    return order.size() == 0 ? nullptr : order.as<std::int32_t>();
  }
  std::span<const std::int32_t> input_order_on_host() const override { return host_order; }

  DeviceBuffer blocks;  // [ceil(n / 64), schedule.block_bytes()]: kernels/sm90/sm90_fragments.h
  CudaVectors vectors;  // [n padded to 64]
  DeviceBuffer order;   // I32 [k] of split weights: the stored permutation in the schedule's order
  std::vector<std::int32_t> host_order;
  Schedule schedule;
  std::int64_t n = 0;
};

// Lane by lane what the schedule multiplies: channels, those of sparse and dense steps in turn.
std::vector<std::int32_t> scheduled_order(const WeightSource& source, const Schedule& schedule,
                                          const Lanes& lanes) {
  std::vector<std::int32_t> order;
  order.reserve(source.perm.size());
  for (int step = 0; step < 2 * schedule.stages(); ++step) {
    const sm90::Step at = step_at(schedule, step);
    const std::int64_t first = std::int64_t{at.number} * schedule.step_lanes();
    const std::int64_t end = std::min(first + schedule.step_lanes(), at.sparse ? lanes.sparse : lanes.dense);
    const std::int64_t base = at.sparse ? 0 : lanes.sparse;
    for (std::int64_t lane = first; lane < end; ++lane)
      order.push_back(source.perm[static_cast<std::size_t>(base + lane)]);
  }
  require(order.size() == source.perm.size(), "{} channels in an order of {}", source.perm.size(),
          order.size());
  return order;
}

// What plan() makes: everything but the pointers.
struct NativePlan {
  Variant variant;
  sm90::Product product;
};

}  // namespace

Feasibility native_supports(const GemmDesc& desc, const KernelDesc& kernel, int compute_capability) {
  const Variant& variant = variant_of(kernel);
  if (Feasibility general = check_problem(desc); !general.ok) return general;
  if (desc.w != variant.dtype)
    return Feasibility::no(fmt::format("for {} weights", dtype_name(variant.dtype)));
  if (desc.layout == Layout::kDense && !desc.pattern.is_dense())
    return Feasibility::no(fmt::format("dense weights with pattern {}", desc.pattern.to_string()));
  if (kernel.sparse == desc.pattern.is_dense())
    return Feasibility::no(kernel.sparse ? "for weights with a pattern" : "for dense weights");
  if (schedule_of(desc).dense > 0 && !variant.dense_pairs)
    return Feasibility::no("for weights with at least as many 2:4 channels as dense ones");
  // The others write through a buffer in shared memory that has room for BF16.
  if (desc.out != DType::kBF16 && variant.split_blocks == 0)
    return Feasibility::no(fmt::format("writes BF16, not {}", dtype_name(desc.out)));
  if (desc.n % 8 != 0 || row_stride_out(desc) % 8 != 0) {
    return Feasibility::no(
        fmt::format("N={} with rows of {}: multiples of 8 are possible", desc.n, row_stride_out(desc)));
  }
  if (std::max({desc.m, desc.n, lanes_of(desc).sparse + desc.k}) > kLargestSize) {
    return Feasibility::no(
        fmt::format("M={} N={} K={}: sizes up to {} are possible", desc.m, desc.n, desc.k, kLargestSize));
  }
  try {
    read_settings(desc, kernel);
  } catch (const Error& error) {
    return Feasibility::no(error.what());
  }
  if (compute_capability != 90) {
    return Feasibility::no(
        fmt::format("its kernels are for Hopper (compute capability 9.0), the card has {}.{}",
                    compute_capability / 10, compute_capability % 10));
  }
  return {};
}

Feasibility NativeBackend::available() const {
  return hopper_available();
}

std::vector<KernelDesc> NativeBackend::kernels() const {
  static const std::vector<KernelDesc> kList = list_kernels();
  return kList;
}

std::vector<KernelDesc> NativeBackend::candidates(const GemmDesc& desc) const {
  std::vector<KernelDesc> found;
  for (const KernelDesc& kernel : kernels()) {
    if (!feasible(desc, kernel).ok) continue;
    const Variant& variant = variant_of(kernel);
    // Tiles that would be mostly empty, and small ones for many tokens.
    if (variant.tile_tokens > 16 && variant.tile_tokens > 2 * round_up(desc.m, 16)) continue;
    if (variant.tile_tokens < 128 && desc.m > 8 * variant.tile_tokens) continue;
    found.push_back(kernel);
    if (variant.split_blocks > 0) {
      for (const int splits : {1, 2, 4, 8}) {
        if (splits == usual_splits(desc, variant) || splits > schedule_of(desc).stages()) continue;
        found.push_back(kernel);
        found.back().config = fmt::format("splits={}", splits);
      }
      continue;
    }
    const int usual = usual_panel(desc, variant);
    if (ceil_div(desc.m, variant.tile_tokens) <= usual / 2) continue;
    for (const int panel : {usual / 2, usual * 2}) {
      found.push_back(kernel);
      found.back().config = fmt::format("panel={}", panel);
    }
  }
  std::stable_sort(found.begin(), found.end(), [&desc](const KernelDesc& a, const KernelDesc& b) {
    return expected_cycles(desc, variant_of(a)) < expected_cycles(desc, variant_of(b));
  });
  return found;
}

Feasibility NativeBackend::feasible(const GemmDesc& desc, const KernelDesc& kernel) const {
  if (Feasibility card = check_cuda_problem(desc); !card.ok) return card;
  const CudaDeviceInfo& info = cuda_status().devices[static_cast<std::size_t>(desc.device.index)];
  return native_supports(desc, kernel, info.compute_capability());
}

Footprint NativeBackend::footprint(const GemmDesc& desc, const KernelDesc&) const {
  const Schedule schedule = schedule_of(desc);
  Footprint footprint;
  footprint.weight_bytes_read = blocks_of(desc) * schedule.block_bytes() + padded_vector_bytes(desc);
  footprint.weight_bytes = footprint.weight_bytes_read;
  if (desc.layout == Layout::kSplit) footprint.weight_bytes += desc.k * 4;
  footprint.m_padded = desc.m;
  footprint.k_padded = schedule.lanes();
  footprint.lift =
      desc.layout == Layout::kPacked && desc.pattern.half_group() > 2 ? desc.pattern.half_group() : 0;
  footprint.gathered = desc.layout == Layout::kSplit;
  return footprint;
}

std::string NativeBackend::weight_form(const GemmDesc& desc, const KernelDesc&) const {
  const Schedule schedule = schedule_of(desc);
  return fmt::format("fragments {}x{} ({} of {} steps 2:4)", desc.n, schedule.lanes(),
                     schedule.sparse_steps(), 2 * schedule.stages());
}

std::unique_ptr<PreparedWeights> NativeBackend::prepare_weights(const WeightSource& source,
                                                                const GemmDesc& desc,
                                                                const KernelDesc&) const {
  const Schedule schedule = schedule_of(desc);
  const Lanes lanes = lanes_of(desc);
  auto weights = std::make_unique<NativeWeights>();
  weights->schedule = schedule;
  weights->n = desc.n;
  weights->blocks = DeviceBuffer(blocks_of(desc) * schedule.block_bytes(), "weights");
  upload_rows(source, desc, sm90::kBlockRows, [&](const StoredChunk& chunk) {
    const sm90::StoredRows rows{reinterpret_cast<const std::uint8_t*>(chunk.values),
                                chunk.codes,
                                chunk.rows,
                                lanes.sparse / 4,
                                lanes.dense,
                                stored_code_bytes_per_row(desc),
                                lanes.half_group};
    auto* const to =
        weights->blocks.as<std::uint8_t>() + chunk.first / sm90::kBlockRows * schedule.block_bytes();
    cuda_check(sm90::format_fragments(rows, schedule, to, chunk.stream), "format_fragments",
               desc.to_string());
  });
  weights->vectors = upload_vectors(source, desc, blocks_of(desc) * sm90::kBlockRows);
  if (desc.layout == Layout::kSplit) {
    weights->host_order = scheduled_order(source, schedule, lanes);
    weights->order = DeviceBuffer(desc.k * 4, "order of channels");
    const CudaStream stream;
    copy_to_device(weights->order.data(), weights->host_order.data(), desc.k * 4, stream.handle());
    stream.synchronize();
  }
  return weights;
}

GemmPlan NativeBackend::plan(const GemmDesc& desc, const KernelDesc& kernel) const {
  const Feasibility answer = feasible(desc, kernel);
  require(answer.ok, "{} cannot run {}: {}", kernel.name, desc.to_string(), answer.reason);
  auto state = std::make_shared<NativePlan>();
  state->variant = variant_of(kernel);
  state->product.channels = desc.n;
  state->product.tokens = desc.m;
  state->product.schedule = schedule_of(desc);
  state->product.ldout = row_stride_out(desc);
  state->product.out_dtype = desc.out;
  state->product.multiprocessors = multiprocessors(desc);
  const Settings settings = read_settings(desc, kernel);
  state->product.panel = settings.panel;
  state->product.splits = settings.splits;
  if (desc.m > 0) cuda_check(state->variant.prepare(), "cudaFuncSetAttribute", kernel.name);
  return {desc, kernel, 0, std::move(state)};
}

void NativeBackend::run(const GemmPlan& plan, const PreparedWeights& weights, const GemmArgs& args,
                        const Context& context) const {
  const GemmDesc& desc = plan.desc;
  if (desc.m == 0) return;
  const auto& state = *static_cast<const NativePlan*>(plan.state.get());
  const auto& matrix = dynamic_cast<const NativeWeights&>(weights);
  // Messages are made only when there is something to say: a call has microseconds.
  check_cuda_args(desc, args, kPointerAlignment, kPointerAlignment);
  if (matrix.n != desc.n || matrix.schedule != state.product.schedule ||
      (matrix.vectors.bias.size() != 0) != desc.bias) {
    fail(ErrorKind::kInternal, "{}: weights of {} rows of {} with {} bias are another problem's",
         desc.to_string(), matrix.n, matrix.schedule.lanes(), matrix.vectors.bias.size() != 0 ? "a" : "no");
  }
  sm90::Product product = state.product;
  product.weights = matrix.blocks.as<std::uint8_t>();
  product.x = args.x;
  product.w_scale = matrix.vectors.scales.as<float>();
  product.x_scale = args.x_scale;
  product.bias = desc.bias ? matrix.vectors.bias.as<float>() : nullptr;
  product.out = args.out;
  cuda_check(state.variant.run(product, context.stream), plan.kernel.name);
}

}  // namespace slidesparse
