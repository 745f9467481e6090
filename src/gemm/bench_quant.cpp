#include "gemm/bench_quant.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/cuda/status.h"
#include "core/fail.h"
#include "slidesparse/format/pattern.h"
#ifdef SLIDESPARSE_HAVE_CUDA
#include "core/cuda/check.h"
#include "core/cuda/memory.h"
#include "core/cuda/stream.h"
#include "core/random.h"
#include "kernels/cuda/fill.h"
#endif

namespace slidesparse {

std::string_view producer_name(cuda::Producer producer) {
  switch (producer) {
    case cuda::Producer::kRmsNorm:
      return "norm";
    case cuda::Producer::kSiluMul:
      return "silu";
    default:
      return "plain";
  }
}

#ifdef SLIDESPARSE_HAVE_CUDA
namespace {

constexpr std::int64_t kAsymptoticBytes = std::int64_t{1} << 30;
constexpr std::int64_t kMostCopies = 256;
constexpr std::int64_t kMostLaunches = 1024;  // of a graph

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + 255) / 256 * 256;
}

// Bytes of the arrays of one call.
struct Footprint {
  std::int64_t x = 0;
  std::int64_t update = 0;
  std::int64_t q = 0;
  std::int64_t scale = 0;
  std::int64_t ldq = 0;
  std::int64_t stride() const { return aligned(x) + aligned(update) + aligned(q) + aligned(scale); }
};

Footprint footprint_of(const QuantBenchCase& c) {
  const std::int64_t element = c.dtype == DType::kBF16 ? 2 : 1;
  const std::int64_t k_out = c.lift == 0 ? c.k : Pattern::of_half_group(c.lift).lifted_k(c.k);
  Footprint bytes;
  bytes.ldq = (k_out + 15) / 16 * 16;
  bytes.x = 2 * c.m * c.k * (c.producer == cuda::Producer::kSiluMul ? 2 : 1);
  bytes.update = c.producer == cuda::Producer::kRmsNorm ? 2 * c.m * c.k : 0;
  bytes.q = c.m * bytes.ldq * element;
  bytes.scale = 4 * c.m;
  return bytes;
}

// Read and written; the residual is both.
std::int64_t moved_bytes(const QuantBenchCase& c, const Footprint& bytes) {
  const std::int64_t residual = c.producer == cuda::Producer::kRmsNorm ? bytes.x : 0;
  const std::int64_t scale = c.dtype == DType::kBF16 ? 0 : bytes.scale;
  return bytes.x + bytes.update + residual + bytes.q + scale;
}

// `count` times `call(i)` as one graph, and how long a replay takes.
class Window {
 public:
  Window(const CudaStream& stream, std::int64_t count, const std::function<void(std::int64_t)>& call)
      : count_(count), graph_(stream, [&] {
          for (std::int64_t i = 0; i < count; ++i) call(i);
        }) {}

  // Seconds of one call.
  double measure(const CudaStream& stream) {
    start_.record(stream.handle());
    graph_.launch(stream.handle());
    end_.record(stream.handle());
    end_.synchronize();
    return end_.seconds_since(start_) / static_cast<double>(count_);
  }

 private:
  std::int64_t count_;
  CudaGraph graph_;
  CudaEvent start_;
  CudaEvent end_;
};

// A window that takes `seconds` at least, as the second replay of one that goes through all copies once
// shows.
Window sized_window(const CudaStream& stream, std::int64_t copies, double seconds,
                    const std::function<void(std::int64_t)>& call) {
  Window pilot(stream, copies, call);
  pilot.measure(stream);
  const double one = std::max(1e-7, pilot.measure(stream));
  const auto wanted = static_cast<std::int64_t>(std::ceil(seconds / one));
  if (wanted <= copies) return pilot;
  const std::int64_t rounds = (std::min(wanted, kMostLaunches) + copies - 1) / copies;
  return Window(stream, rounds * copies, call);
}

// The two ways to copy `bytes` / 2 from one place to another.
void copy_by_library(std::byte* to, const std::byte* from, std::int64_t bytes, const CudaStream& stream) {
  copy_on_device(to, from, bytes / 2, stream.handle());
}
void copy_by_kernel(std::byte* to, const std::byte* from, std::int64_t bytes, const CudaStream& stream) {
  cuda_check(cuda::copy_wide(to, from, (bytes / 2 + 15) / 16 * 16, stream.handle()), "copy_wide");
}

Spread faster(const std::vector<double>& a, const std::vector<double>& b) {
  const Spread first = summarise(a);
  const Spread second = summarise(b);
  return first.median < second.median ? first : second;
}

double asymptotic_copy_rate(const QuantBenchOptions& options, const CudaStream& stream) {
  DeviceBuffer from(kAsymptoticBytes / 2, "benchmark: copy source");
  DeviceBuffer to(kAsymptoticBytes / 2, "benchmark: copy target");
  cuda_check(cuda::fill_random(DType::kI8, from.data(), from.size(), options.seed, stream.handle()),
             "fill_random");
  std::vector<double> seconds[2];
  Window windows[2] = {
      sized_window(stream, 2, options.window_seconds,
                   [&](std::int64_t) { copy_by_library(to.data(), from.data(), kAsymptoticBytes, stream); }),
      sized_window(stream, 2, options.window_seconds,
                   [&](std::int64_t) { copy_by_kernel(to.data(), from.data(), kAsymptoticBytes, stream); })};
  for (int round = 0; round < options.rounds; ++round) {
    for (int i = 0; i < 2; ++i) seconds[i].push_back(windows[i].measure(stream));
  }
  return static_cast<double>(kAsymptoticBytes) / faster(seconds[0], seconds[1]).median;
}

QuantBenchRow measure(const QuantBenchCase& c, const QuantBenchOptions& options, const CudaStream& stream) {
  QuantBenchRow row;
  row.problem = c;
  const Footprint bytes = footprint_of(c);
  row.bytes = moved_bytes(c, bytes);
  const std::int64_t l2 = cuda_status().devices.front().l2_bytes;
  const std::int64_t copies =
      std::clamp<std::int64_t>(2 * l2 / std::max<std::int64_t>(1, row.bytes) + 2, 2, kMostCopies);
  row.rotated_bytes = copies * row.bytes;
  row.beyond_cache = row.rotated_bytes > 2 * l2;

  DeviceBuffer data(copies * bytes.stride(), "benchmark: activations");
  DeviceBuffer weight(2 * c.k, "benchmark: norm weight");
  DeviceBuffer perm(c.gather ? 4 * c.k : 0, "benchmark: permutation");
  const std::int64_t half = aligned(row.bytes / 2);
  DeviceBuffer from(copies * half, "benchmark: copy source");
  DeviceBuffer to(copies * half, "benchmark: copy target");
  cuda_check(cuda::fill_random(DType::kBF16, data.data(), data.size() / 2, options.seed, stream.handle()),
             "fill_random");
  cuda_check(cuda::fill_random(DType::kBF16, weight.data(), c.k, options.seed + 1, stream.handle()),
             "fill_random");
  cuda_check(cuda::fill_random(DType::kI8, from.data(), from.size(), options.seed + 2, stream.handle()),
             "fill_random");
  std::vector<std::int32_t> order(static_cast<std::size_t>(c.gather ? c.k : 0));
  std::iota(order.begin(), order.end(), 0);
  Random random(options.seed);
  for (std::size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(i)))]);
  }
  copy_to_device(perm.data(), order.data(), perm.size(), stream.handle());
  stream.synchronize();

  const auto call = [&](std::int64_t i) {
    std::byte* const base = data.data() + i % copies * bytes.stride();
    std::byte* const update = base + aligned(bytes.x);
    std::byte* const q = update + aligned(bytes.update);
    cuda::QuantizeArgs args;
    args.producer = c.producer;
    args.out = c.dtype;
    args.m = c.m;
    args.k = c.k;
    args.x = base;
    args.ldx = c.producer == cuda::Producer::kSiluMul ? 2 * c.k : c.k;
    if (c.producer == cuda::Producer::kRmsNorm) {
      args.residual_out = base;
      args.update = update;
      args.norm_weight = weight.data();
      args.eps = 1e-6f;
    }
    args.lift = c.lift;
    args.perm = c.gather ? perm.as<std::int32_t>() : nullptr;
    args.q = q;
    args.ldq = bytes.ldq;
    args.scale = c.dtype == DType::kBF16 ? nullptr : reinterpret_cast<float*>(q + aligned(bytes.q));
    cuda_check(cuda::quantize(args, stream.handle()), "quantize", fmt::format("of [{}, {}]", c.m, c.k));
  };
  Window kernel = sized_window(stream, copies, options.window_seconds, call);
  const auto copy_with = [&](auto copy) {
    return sized_window(stream, copies, options.window_seconds, [&, copy](std::int64_t i) {
      copy(to.data() + i % copies * half, from.data() + i % copies * half, row.bytes, stream);
    });
  };
  Window library_copy = copy_with(copy_by_library);
  Window kernel_copy = copy_with(copy_by_kernel);
  Window empty = sized_window(stream, 1, options.window_seconds, [&](std::int64_t) {
    cuda_check(cuda::launch_nothing(stream.handle()), "launch_nothing");
  });
  std::vector<double> kernels;
  std::vector<double> copied_by_library;
  std::vector<double> copied_by_kernel;
  std::vector<double> emptied;
  for (int round = 0; round < options.rounds; ++round) {
    kernels.push_back(kernel.measure(stream));
    copied_by_library.push_back(library_copy.measure(stream));
    copied_by_kernel.push_back(kernel_copy.measure(stream));
    emptied.push_back(empty.measure(stream));
  }
  row.seconds = summarise(kernels);
  row.copy_seconds = faster(copied_by_library, copied_by_kernel);
  row.empty_seconds = summarise(emptied).median;
  row.bytes_per_second = static_cast<double>(row.bytes) / row.seconds.median;
  row.share_of_copy = row.copy_seconds.median / row.seconds.median;
  return row;
}

}  // namespace

QuantBenchResult bench_quant(const QuantBenchOptions& options) {
  if (!cuda_status().available) fail(ErrorKind::kUnsupported, "nothing to measure: {}", cuda_status().reason);
  const CudaStream stream;
  QuantBenchResult result;
  if (options.on_progress) options.on_progress("copy");
  result.copy_rate = asymptotic_copy_rate(options, stream);
  for (const QuantBenchCase& c : options.cases) {
    if (c.m < 1 || c.k < 1) fail_input("m {} and k {} must be positive", c.m, c.k);
    if (options.on_progress) {
      options.on_progress(
          fmt::format("{} to {}, m {}, k {}", producer_name(c.producer), dtype_name(c.dtype), c.m, c.k));
    }
    result.rows.push_back(measure(c, options, stream));
    QuantBenchRow& row = result.rows.back();
    row.share_of_asymptotic = row.bytes_per_second / result.copy_rate;
  }
  return result;
}

#else

QuantBenchResult bench_quant(const QuantBenchOptions&) {
  fail(ErrorKind::kUnsupported, "nothing to measure: {}", cuda_status().reason);
}

#endif

}  // namespace slidesparse
