// How fast the cutlass backend is: a table of its best candidates for the layers of Qwen2.5-7B, and bounds so
// loose that only a broken kernel or a forgotten variant breaks them.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "core/buffer.h"
#include "core/cuda/memory.h"
#include "core/cuda/stream.h"
#include "core/parallel.h"
#include "core/random.h"
#include "gemm/backends/cuda_weights.h"
#include "gemm/backends/cutlass.h"
#include "gemm/backends/cutlass/variant.h"
#include "gemm/cuda/case.h"

namespace slidesparse {
namespace {

const CutlassBackend kBackend;

struct Layer {
  const char* name;
  std::int64_t n;
  std::int64_t k;
};
constexpr Layer kLayers[] = {
    {"qkv", 4608, 3584}, {"o", 3584, 3584}, {"gate_up", 37888, 3584}, {"down", 3584, 18944}};
constexpr std::int64_t kTokens[] = {16, 64, 256, 1024, 2048, 4096, 16384};
constexpr std::int64_t kRotation = std::int64_t{160} << 20;  // bytes of weights beyond any second-level cache

// Finite values of every kind.
Buffer random_values(DType dtype, std::int64_t count) {
  Buffer values(static_cast<std::size_t>(count));
  parallel_for(count / 8, 1 << 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::uint64_t bits = random_bits(17, static_cast<std::uint64_t>(i));
      if (dtype == DType::kF8E4M3) bits &= 0xbfbfbfbfbfbfbfbfull;  // exponents that exclude NaN
      std::memcpy(values.data() + i * 8, &bits, 8);
    }
  });
  return values;
}

// Everything of one layer on the card: enough copies of the weights that none is in a cache when it is used.
class Bench {
 public:
  Bench(DType dtype, const Layer& layer, std::int64_t most_tokens) : dtype_(dtype), layer_(layer) {
    const Buffer values = random_values(dtype, layer.n * layer.k);
    const std::vector<float> scales(static_cast<std::size_t>(layer.n), 0.01f);
    WeightSource source;
    source.dtype = dtype;
    source.n = layer.n;
    source.k = layer.k;
    source.values = values.data();
    source.scales = scales.data();
    source.scale_dtype = DType::kF32;
    const std::int64_t copies = std::clamp<std::int64_t>(kRotation / (layer.n * layer.k), 1, 12);
    const KernelDesc first = kBackend.candidates(desc(16)).front();
    for (std::int64_t i = 0; i < copies; ++i)
      weights_.push_back(kBackend.prepare_weights(source, desc(16), first));
    x_ = DeviceBuffer(most_tokens * layer.k, "speed: x");
    const auto& random = dynamic_cast<const CudaWeights&>(*weights_.front()).values;
    for (std::int64_t at = 0; at < x_.size(); at += random.size())
      copy_on_device(x_.data() + at, random.data(), std::min(random.size(), x_.size() - at),
                     stream_.handle());
    scale_ = DeviceBuffer(most_tokens * 4, "speed: token scales");
    fill_device(scale_.data(), 0x3c, scale_.size(), stream_.handle());
    out_ = DeviceBuffer(most_tokens * layer.n * 2, "speed: out");
    workspace_ = DeviceBuffer(std::int64_t{64} << 20, "speed: workspace");
    stream_.synchronize();
  }

  GemmDesc desc(std::int64_t m) const {
    GemmDesc desc;
    desc.m = m;
    desc.n = layer_.n;
    desc.k = layer_.k;
    desc.x = desc.w = dtype_;
    desc.device = {DeviceKind::kCuda, 0};
    return desc;
  }

  // Seconds of one product among many in a graph; the best of three launches.
  double seconds(const GemmDesc& desc, const KernelDesc& kernel) {
    const GemmPlan plan = kBackend.plan(desc, kernel);
    const double flops = 2.0 * static_cast<double>(desc.m * desc.n) * static_cast<double>(desc.k);
    const auto calls =
        std::max<std::int64_t>(4, std::min<std::int64_t>(24, static_cast<std::int64_t>(4e12 / flops)));
    const CudaGraph graph(stream_, [&] {
      for (std::int64_t i = 0; i < calls; ++i) run(plan, static_cast<std::size_t>(i) % weights_.size());
    });
    double best = 1;
    for (int i = 0; i < 4; ++i) {
      CudaEvent begin, end;
      begin.record(stream_.handle());
      graph.launch(stream_.handle());
      end.record(stream_.handle());
      end.synchronize();
      if (i > 0) best = std::min(best, end.seconds_since(begin) / static_cast<double>(calls));
    }
    return best;
  }

  // Seconds of the host for one call outside a graph, while the card keeps up.
  double host_seconds(const GemmDesc& desc, const KernelDesc& kernel) {
    const GemmPlan plan = kBackend.plan(desc, kernel);
    constexpr int kCalls = 100;
    double best = 1;
    for (int i = 0; i < 10; ++i) {
      stream_.synchronize();
      const auto start = std::chrono::steady_clock::now();
      for (int j = 0; j < kCalls; ++j) run(plan, 0);
      best = std::min(
          best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / kCalls);
    }
    stream_.synchronize();
    return best;
  }

  // Seconds in which the card copies the layer's weights once, reading and writing together.
  double copy_seconds() {
    const auto& from = dynamic_cast<const CudaWeights&>(*weights_.front()).values;
    DeviceBuffer to(from.size(), "speed: copy");
    double best = 1;
    for (int i = 0; i < 5; ++i) {
      CudaEvent begin, end;
      begin.record(stream_.handle());
      for (int j = 0; j < 4; ++j) copy_on_device(to.data(), from.data(), from.size(), stream_.handle());
      end.record(stream_.handle());
      end.synchronize();
      best = std::min(best, end.seconds_since(begin) / 4);
    }
    return best;
  }

 private:
  void run(const GemmPlan& plan, std::size_t copy) {
    Arena arena(workspace_.data(), static_cast<std::size_t>(workspace_.size()));
    kBackend.run(plan, *weights_[copy], {x_.data(), scale_.as<float>(), out_.data()},
                 {plan.desc.device, stream_.handle(), &arena});
  }

  DType dtype_;
  Layer layer_;
  CudaStream stream_;
  std::vector<std::unique_ptr<PreparedWeights>> weights_;
  DeviceBuffer x_;
  DeviceBuffer scale_;
  DeviceBuffer out_;
  DeviceBuffer workspace_;
};

std::string why_not() {
  if (std::string reason = no_gpu_reason(); !reason.empty()) return reason;
  return kBackend.available().reason;
}

class CutlassSpeed : public testing::TestWithParam<DType> {};

TEST_P(CutlassSpeed, LayersOfSevenBillion) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << reason;
  double bytes_per_second = 0;
  std::vector<double> best_sum(std::size(kTokens), 0);
  double bytes = 0;
  for (const Layer& layer : kLayers) {
    Bench bench(GetParam(), layer, kTokens[std::size(kTokens) - 1]);
    bytes += static_cast<double>(layer.n * layer.k);
    if (layer.n > 30000)
      bytes_per_second = 2.0 * static_cast<double>(layer.n * layer.k) / bench.copy_seconds();
    for (std::size_t at = 0; at < std::size(kTokens); ++at) {
      const GemmDesc desc = bench.desc(kTokens[at]);
      std::vector<std::pair<double, std::string>> times;
      for (const KernelDesc& kernel : kBackend.candidates(desc))
        times.emplace_back(bench.seconds(desc, kernel) * 1e6, kernel.name + " " + kernel.config);
      ASSERT_FALSE(times.empty());
      const std::string expected = times.front().second;
      std::sort(times.begin(), times.end());
      best_sum[at] += times.front().first;
      fmt::print("{} {:8} M={:5}:", dtype_name(GetParam()), layer.name, desc.m);
      for (const auto& [time, name] : times)
        fmt::print("  {:.1f} {};", time, name.substr(name.find(' ') + 1));
      fmt::print("  expected first: {}\n", expected.substr(expected.find(' ') + 1));
    }
  }
  for (std::size_t at = 0; at < std::size(kTokens); ++at) {
    fmt::print("{} four layers M={:5}: {:.1f} us, {:.0f} T/s\n", dtype_name(GetParam()), kTokens[at],
               best_sum[at], 2e-6 * bytes * static_cast<double>(kTokens[at]) / best_sum[at]);
  }
  fmt::print("copy {:.2f} TB/s: weights alone {:.1f} us\n", bytes_per_second * 1e-12,
             bytes / bytes_per_second * 1e6);
  EXPECT_LT(best_sum[1] * 1e-6, 1.6 * bytes / bytes_per_second)
      << "M=64 is bound by the bytes of the weights";
  EXPECT_GT(2e6 * bytes * 4096 / best_sum[5], 6e14) << "M=4096 is bound by multiplications";
}

TEST_P(CutlassSpeed, HostTimeOfACall) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << reason;
  Bench bench(GetParam(), kLayers[0], 16);
  for (const KernelDesc& kernel : kBackend.kernels()) {
    if (!kBackend.feasible(bench.desc(16), kernel).ok) continue;
    const double seconds = bench.host_seconds(bench.desc(16), kernel);
    cutlass_gemm::Resources resources;
    cutlass_gemm::variants()[static_cast<std::size_t>(kernel.id)].resources(&resources);
    fmt::print("{}: {:.2f} us of the host a call; {} registers, {} bytes local, {} bytes shared, {} stages\n",
               kernel.name, seconds * 1e6, resources.registers, resources.local_bytes, resources.shared_bytes,
               resources.stages);
    EXPECT_LT(seconds, 8e-6) << kernel.name;
    EXPECT_EQ(resources.local_bytes, 0) << kernel.name << " spills";
  }
}

std::string type_name(const testing::TestParamInfo<DType>& which) {
  return which.param == DType::kI8 ? "I8" : "F8";
}
INSTANTIATE_TEST_SUITE_P(Types, CutlassSpeed, testing::Values(DType::kF8E4M3, DType::kI8), type_name);

}  // namespace
}  // namespace slidesparse
