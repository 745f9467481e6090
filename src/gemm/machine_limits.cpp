#include "gemm/machine_limits.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/buffer.h"
#include "core/fail.h"
#include "core/parallel.h"
#include "core/samples.h"
#include "kernels/cpu/gemm_kernels.h"

namespace slidesparse {
namespace {

constexpr int kFewestRuns = 5;

// The best of several runs: a limit is what the machine can do, not what it did while others used it.
double best_of(const std::function<void()>& body, double seconds) {
  const std::vector<double> samples = time_runs(body, 1, kFewestRuns, seconds);
  return *std::min_element(samples.begin(), samples.end());
}

double read_rate(double seconds) {
  const std::int64_t bytes = std::max<std::int64_t>(4 * last_level_cache_bytes(), std::int64_t{256} << 20);
  Buffer buffer(static_cast<std::size_t>(bytes));
  std::memset(buffer.data(), 1, buffer.size());
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(thread_count()));
  const double best = best_of(
      [&] {
        parallel_for(thread_count(), 1, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t t = begin; t < end; ++t) {
            const std::int64_t words = bytes / 8;
            const std::int64_t first = words * t / thread_count();
            sums[static_cast<std::size_t>(t)] =
                read_words(buffer.as<std::uint64_t>() + first, words * (t + 1) / thread_count() - first);
          }
        });
      },
      seconds);
  return static_cast<double>(bytes) / best;
}

double product_rate(DType dtype, double seconds) {
  const bool tiles = active_isa() == Isa::kAvx512 && has_amx();
  const auto peak = (tiles ? amx_gemm_kernels(dtype) : gemm_kernels(active_isa(), dtype)).peak;
  if (peak == nullptr) return 0;
  constexpr std::int64_t kRounds = 500'000;
  std::vector<std::int64_t> done(static_cast<std::size_t>(thread_count()));
  const double best = best_of(
      [&] {
        parallel_for(thread_count(), 1, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t t = begin; t < end; ++t) done[static_cast<std::size_t>(t)] = peak(kRounds);
        });
      },
      seconds);
  double total = 0;
  for (const std::int64_t ops : done) total += static_cast<double>(ops);
  return total / best;
}

}  // namespace

MachineLimits measure_machine_limits(double seconds) {
  MachineLimits limits;
  limits.threads = thread_count();
  limits.isa = active_isa();
  limits.read_bytes_per_second = read_rate(seconds);
  limits.int8_ops_per_second = product_rate(DType::kI8, seconds);
  limits.bf16_flops_per_second = product_rate(DType::kBF16, seconds);
  return limits;
}

MachineLimits measure_limits(DeviceKind device) {
#ifdef SLIDESPARSE_HAVE_CUDA
  if (device == DeviceKind::kCuda) return measure_card_limits();
#endif
  require(device == DeviceKind::kCpu, "limits of a card in a build without CUDA");
  return measure_machine_limits();
}

std::int64_t last_level_cache_bytes() {
  const long bytes = ::sysconf(_SC_LEVEL3_CACHE_SIZE);
  return bytes > 0 ? bytes : std::int64_t{64} << 20;
}

}  // namespace slidesparse
