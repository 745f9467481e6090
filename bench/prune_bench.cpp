// SparseGPT's arithmetic on one fused group of Qwen2.5-7B with random second moments, all cores: seconds for
// the factorisation, the surgery at 6:8, and one step of the refit. Calibration itself is not in it. The
// largest takes 6 GB and minutes: choose with --benchmark_filter.
#include <benchmark/benchmark.h>

#include <vector>

#include "core/linear_algebra.h"
#include "core/random.h"
#include "prune/obs.h"
#include "prune/refit.h"

namespace slidesparse {
namespace {

// x^T x of 2048 random tokens: of low rank where there are more channels, which the dampening mends and the
// time does not depend on.
std::vector<float> random_moments(std::int64_t k) {
  constexpr std::int64_t kTokens = 512;
  std::vector<float> moments(static_cast<std::size_t>(k * k), 0.0f);
  std::vector<float> x(static_cast<std::size_t>(kTokens * k));
  Random random(1);
  for (std::int64_t tokens = 0; tokens < 2048; tokens += kTokens) {
    for (float& value : x) value = random.normal();
    add_gram(kTokens, k, x.data(), k, moments.data());
  }
  mirror_lower(k, moments.data());
  return moments;
}

std::vector<float> random_weights(std::int64_t count) {
  std::vector<float> w(static_cast<std::size_t>(count));
  Random random(2);
  for (float& value : w) value = random.normal();
  return w;
}

void BM_Factor(benchmark::State& state) {
  const std::int64_t k = state.range(0);
  const std::vector<float> moments = random_moments(k);
  for (auto _ : state) benchmark::DoNotOptimize(factor_inverse(moments, k, {}, 0.01, "bench"));
}

void BM_Surgery(benchmark::State& state) {
  const std::int64_t rows = state.range(0);
  const std::int64_t k = state.range(1);
  const InverseFactor factor = factor_inverse(random_moments(k), k, {}, 0.01, "bench");
  std::vector<float> w = random_weights(rows * k);
  for (auto _ : state) obs_prune(factor, 8, k, w.data(), rows, k);
}

void BM_RefitStep(benchmark::State& state) {
  const std::int64_t rows = state.range(0);
  const std::int64_t k = state.range(1);
  const std::vector<float> moments = random_moments(k);
  const std::vector<float> original = random_weights(rows * k);
  std::vector<float> w = original;
  for (std::size_t i = 0; i < w.size(); i += 4) w[i] = 0;
  for (auto _ : state) refit_weights(moments, 1.0, k, original.data(), w.data(), rows, 1);
}

BENCHMARK(BM_Factor)->Arg(3584)->Arg(18944)->Unit(benchmark::kSecond)->Iterations(1)->UseRealTime();
BENCHMARK(BM_Surgery)
    ->Args({4608, 3584})
    ->Args({37888, 3584})
    ->Args({3584, 18944})
    ->Unit(benchmark::kSecond)
    ->Iterations(1)
    ->UseRealTime();
// The first product with H, for the slope at the start, is a second one.
BENCHMARK(BM_RefitStep)
    ->Args({4608, 3584})
    ->Args({3584, 18944})
    ->Unit(benchmark::kSecond)
    ->Iterations(1)
    ->UseRealTime();

}  // namespace
}  // namespace slidesparse

BENCHMARK_MAIN();
