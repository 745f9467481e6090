#include "gemm/bench.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/fail.h"
#include "core/interrupt.h"
#include "core/numeric.h"
#include "core/random.h"
#include "gemm/race_track.h"
#include "gemm/random_problem.h"

namespace slidesparse {
namespace {

constexpr int kFewestRounds = 7;

// One kernel in the race.
struct Candidate {
  GemmBenchRow row;
  const Backend* backend = nullptr;
  GemmPlan plan;
  const LayerWeights* weights = nullptr;
  std::vector<std::shared_ptr<PreparedWeights>> prepared;  // one a copy
  std::vector<double> samples;
};

// Everything of one shape, dtype and M.
class Race {
 public:
  Race(const GemmBenchOptions& options, const MachineLimits& limits, const GemmShape& shape, DType dtype,
       std::int64_t m)
      : options_(options), limits_(limits), shape_(shape), dtype_(dtype), m_(m) {
    x_ = Buffer(static_cast<std::size_t>(m * shape.k) * dtype_size(dtype));
    fill_random_values(dtype, x_.data(), m * shape.k, options.seed + 17);
    for (std::int64_t i = 0; i < m; ++i) {
      x_scales_.push_back(0x1p-6f *
                          (1.0f + random_uniform(options.seed + 18, static_cast<std::uint64_t>(i))));
    }
    out_ = Buffer(static_cast<std::size_t>(m * shape.n) * dtype_size(DType::kBF16));
    std::vector<Pattern> patterns{Pattern()};
    for (const Pattern& pattern : options.patterns) {
      if (!pattern.is_dense()) patterns.push_back(pattern);
    }
    for (const Pattern& pattern : patterns) add_pattern(pattern);
  }

  // The same for every M.
  const std::vector<KeptWeights>& kept() const { return kept_; }

  std::vector<GemmBenchRow> run() {
    for (Candidate& candidate : candidates_) candidate.row.check = check(candidate);
    double total = 0;
    const double enough = options_.min_seconds * static_cast<double>(candidates_.size());
    for (int round = -1; round < kFewestRounds || total < enough; ++round) {
      for (Candidate& candidate : candidates_) {
        if (candidate.row.check != "ok") continue;
        check_interrupt("the rows measured so far are lost; run the command again");
        const double start = now_seconds();
        run_once(candidate, round + 1);
        const double seconds = now_seconds() - start;
        total += seconds;
        if (round >= 0) candidate.samples.push_back(seconds);  // the first round warms up
      }
      if (total == 0) break;
    }
    return rows();
  }

 private:
  void add_pattern(Pattern pattern) {
    const TrackShape shape{shape_.n, shape_.k, dtype_, shape_.bias, shape_.stored, shape_.layout};
    const GemmDesc desc = track_desc(shape, pattern, m_, {});
    const std::int64_t copies =
        1 + (m_ <= kStreamingTokens ? 2 * last_level_cache_bytes() / layer_weight_bytes(desc) : 0);
    weights_.push_back(std::make_unique<LayerWeights>(track_weights(shape, desc, options_.seed, copies)));
    if (options_.every_kernel) {
      for (const Backend* backend : backends()) {
        if (!is_allowed(backend->name(), options_.backends)) continue;
        for (const KernelDesc& kernel : backend->kernels()) {
          if (backend->feasible(desc, kernel).ok) add(*backend, desc, kernel);
        }
      }
    } else if (options_.backends.empty()) {
      add_chosen(desc, {});
    } else {
      for (const std::string& name : options_.backends) add_chosen(desc, std::span(&name, 1));
    }
  }

  void add_chosen(const GemmDesc& desc, std::span<const std::string> allowed) {
    kept_.push_back({shape_.name, dtype_, desc.pattern, allowed.empty() ? std::string() : allowed.front(),
                     plan_weight_forms(desc, options_.ms, options_.weights, allowed)});
    add(choose(desc, allowed, nullptr, names_of(kept_.back().forms)), desc);
  }

  void add(const Choice& choice, const GemmDesc& desc) {
    add(*choice.backend, desc, choice.kernel);
    candidates_.back().row.reason = choice.reason;
    candidates_.back().row.others = choice.others;
  }

  void add(const Backend& backend, const GemmDesc& desc, const KernelDesc& kernel) {
    Candidate candidate;
    candidate.backend = &backend;
    candidate.weights = weights_.back().get();
    candidate.plan = backend.plan(desc, kernel);
    for (std::int64_t copy = 0; copy < candidate.weights->copies(); ++copy) {
      candidate.prepared.push_back(
          backend.prepare_weights(candidate.weights->source(copy, 0, desc.n), desc, kernel));
    }
    arena_.reserve(static_cast<std::size_t>(candidate.plan.workspace_bytes));
    GemmBenchRow& row = candidate.row;
    row.shape = shape_.name;
    row.n = shape_.n;
    row.k = shape_.k;
    row.m = m_;
    row.dtype = dtype_;
    row.pattern = desc.pattern;
    row.layout = desc.layout;
    row.own_weights = has_stored({shape_.n, shape_.k, dtype_, shape_.bias, shape_.stored}, desc.pattern);
    row.backend = backend.name();
    row.kernel = kernel.name;
    row.weight_bytes = backend.footprint(desc, kernel).weight_bytes_read;
    row.sparse_share = kernel.sparse ? 1 : 0;
    row.mode = "cpu";
    row.two_roundings = kernel.two_roundings;
    candidates_.push_back(std::move(candidate));
  }

  Context context() {
    Context context;
    context.arena = &arena_;
    return context;
  }

  GemmArgs args(std::int64_t token, void* out) const {
    return {x_.data() + static_cast<std::size_t>(token * shape_.k) * dtype_size(dtype_),
            dtype_ == DType::kBF16 ? nullptr : x_scales_.data() + token, out};
  }

  void run_once(const Candidate& candidate, std::int64_t round) {
    const auto copy = static_cast<std::size_t>(round % candidate.weights->copies());
    candidate.backend->run(candidate.plan, *candidate.prepared[copy], args(0, out_.data()), context());
  }

  // "ok", or the first sampled output that is wrong.
  std::string check(const Candidate& candidate) {
    std::memset(out_.data(), 0xff, out_.size());
    run_once(candidate, 0);
    const GemmDesc& desc = candidate.plan.desc;
    for (int sample = 0; sample < kSampledOutputs; ++sample) {
      const std::int64_t n = sample * (shape_.n - 1) / (kSampledOutputs - 1);
      const std::int64_t token = sample * (m_ - 1) / (kSampledOutputs - 1);
      const WeightSource source = candidate.weights->source(0, n, 1);
      const void* x = args(token, nullptr).x;
      const float scale = x_scales_[static_cast<std::size_t>(token)];
      const double wanted = reference_output(desc, source, x, scale);
      const double got = bf16_to_float(out_.as<std::uint16_t>()[token * shape_.n + n]);
      const double allowed = dtype_ == DType::kI8 ? 0
                                                  : output_tolerance(desc, candidate.plan.kernel, source, x,
                                                                     scale, wanted, false);
      if (!(std::fabs(got - wanted) <= allowed))
        return fmt::format("token {} channel {} is {}, not {}", token, n, got, wanted);
    }
    return "ok";
  }

  std::vector<GemmBenchRow> rows() {
    double dense = 0;
    for (Candidate& candidate : candidates_) {
      candidate.row.seconds = summarise(candidate.samples);
      const double median = candidate.row.seconds.median;
      if (candidate.row.pattern.is_dense() && median > 0 && (dense == 0 || median < dense)) dense = median;
    }
    std::vector<GemmBenchRow> rows;
    for (Candidate& candidate : candidates_) {
      GemmBenchRow& row = candidate.row;
      if (const double median = row.seconds.median; median > 0) {
        const double ops =
            2.0 * static_cast<double>(m_) * static_cast<double>(shape_.n) * static_cast<double>(shape_.k);
        const double peak = limits_.ops_per_second(dtype_);
        const double bytes = static_cast<double>(row.weight_bytes);
        row.ops_per_second = ops / median;
        row.bytes_per_second = bytes / median;
        row.share_of_limit =
            std::max(bytes / limits_.read_bytes_per_second, peak > 0 ? ops / peak : 0) / median;
        row.dense_ratio = dense / median;
      }
      rows.push_back(row);
    }
    return rows;
  }

  const GemmBenchOptions& options_;
  const MachineLimits& limits_;
  const GemmShape& shape_;
  DType dtype_;
  std::int64_t m_;
  Buffer x_;
  std::vector<float> x_scales_;
  Buffer out_;
  Arena arena_;
  std::vector<std::unique_ptr<LayerWeights>> weights_;
  std::vector<Candidate> candidates_;
  std::vector<KeptWeights> kept_;
};

}  // namespace

GemmBenchResult bench_gemm(const GemmBenchOptions& options) {
  for (const GemmShape& shape : options.shapes) {
    const auto elements = checked_mul(shape.n, shape.k);
    if (shape.n < 1 || shape.k < 1 || !elements || *elements > (std::int64_t{1} << 40)) {
      fail(ErrorKind::kUsage,
           "shape {} ({} x {}): both sides must be positive and the matrix below 2^40 elements", shape.name,
           shape.n, shape.k);
    }
  }
  for (const std::int64_t m : options.ms) {
    if (m < 1 || m > (std::int64_t{1} << 20)) fail(ErrorKind::kUsage, "M={}: between 1 and {}", m, 1 << 20);
  }
  if (options.device == DeviceKind::kCuda) return bench_gemm_chosen(options);
  GemmBenchResult result;
  result.limits = measure_machine_limits();
  for (const GemmShape& shape : options.shapes) {
    for (const DType dtype : options.dtypes) {
      for (const std::int64_t m : options.ms) {
        if (options.on_progress)
          options.on_progress(fmt::format("{} {} M={}", shape.name, dtype_name(dtype), m));
        Race race(options, result.limits, shape, dtype, m);
        const std::vector<GemmBenchRow> rows = race.run();
        if (m == options.ms.front())
          result.weights.insert(result.weights.end(), race.kept().begin(), race.kept().end());
        result.rows.insert(result.rows.end(), rows.begin(), rows.end());
      }
    }
  }
  return result;
}

}  // namespace slidesparse
