#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <thread>

#include "core/fail.h"
#include "core/numeric.h"
#include "core/random.h"
#include "gemm/machine_limits.h"
#include "gemm/race_track.h"
#include "gemm/random_problem.h"

namespace slidesparse {
namespace {

// Weights of one problem, and what backends made of them.
struct Prepared {
  std::shared_ptr<LayerWeights> weights;
  std::map<std::string, std::vector<std::shared_ptr<PreparedWeights>>> forms;
};

struct Inputs {
  Buffer x;  // [m, k]
  std::vector<float> scales;
  Buffer out;
  Arena arena;
};

class CpuRunner : public RaceRunner {
 public:
  CpuRunner(const RaceEntrant& entrant, std::shared_ptr<LayerWeights> weights,
            std::vector<std::shared_ptr<PreparedWeights>> copies, std::shared_ptr<Inputs> inputs)
      : entrant_(entrant),
        plan_(entrant.backend->plan(entrant.desc, entrant.kernel)),
        weights_(std::move(weights)),
        copies_(std::move(copies)),
        inputs_(std::move(inputs)) {
    inputs_->arena.reserve(static_cast<std::size_t>(plan_.workspace_bytes));
  }

  std::string check() override {
    std::memset(inputs_->out.data(), 0xff, inputs_->out.size());
    run(0);
    const GemmDesc& desc = entrant_.desc;
    for (int sample = 0; sample < kSampledOutputs; ++sample) {
      const std::int64_t n = sample * (desc.n - 1) / (kSampledOutputs - 1);
      const std::int64_t token = sample * (desc.m - 1) / (kSampledOutputs - 1);
      const std::byte* x = inputs_->x.data() + static_cast<std::size_t>(token * desc.k) * dtype_size(desc.x);
      const float scale = desc.x == DType::kBF16 ? 1.0f : inputs_->scales[static_cast<std::size_t>(token)];
      const WeightSource row = weights_->source(0, n, 1);
      const double wanted = reference_output(desc, row, x, scale);
      const double got = output_at(desc.out, inputs_->out.data(), token * desc.n + n);
      const double allowed =
          desc.x == DType::kI8 ? 0 : output_tolerance(desc, entrant_.kernel, row, x, scale, wanted, false);
      if (!(std::fabs(got - wanted) <= allowed))
        return fmt::format("token {} channel {} is {}, not {}", token, n, got, wanted);
    }
    return "ok";
  }

  double time(double at_least) override {
    double total = 0;
    int runs = 0;
    do {
      const double start = now_seconds();
      run(next_++);
      total += now_seconds() - start;
      ++runs;
    } while (total < at_least);
    return total / runs;
  }

 private:
  void run(std::size_t round) {
    Context context;
    context.arena = &inputs_->arena;
    entrant_.backend->run(
        plan_, *copies_[round % copies_.size()],
        {inputs_->x.data(), entrant_.desc.x == DType::kBF16 ? nullptr : inputs_->scales.data(),
         inputs_->out.data()},
        context);
  }

  RaceEntrant entrant_;
  GemmPlan plan_;
  std::shared_ptr<LayerWeights> weights_;
  std::vector<std::shared_ptr<PreparedWeights>> copies_;
  std::shared_ptr<Inputs> inputs_;
  std::size_t next_ = 1;
};

class CpuTrack : public RaceTrack {
 public:
  CpuTrack(const TrackShape& shape, std::uint64_t seed) : shape_(shape), seed_(seed) {}

  std::unique_ptr<RaceRunner> prepare(const RaceEntrant& entrant) override {
    const GemmDesc& desc = entrant.desc;
    const bool streamed = desc.m <= kStreamingTokens;
    Prepared& prepared = prepared_[desc.pattern.to_string() + (streamed ? ", streamed" : "")];
    const std::int64_t wanted = 1 + (streamed ? 2 * last_level_cache_bytes() / layer_weight_bytes(desc) : 0);
    if (!prepared.weights)
      prepared.weights = std::make_shared<LayerWeights>(track_weights(shape_, desc, seed_, wanted));
    auto& copies = prepared.forms[entrant.backend->weight_form(desc, entrant.kernel)];
    while (static_cast<std::int64_t>(copies.size()) < wanted) {
      const auto copy = static_cast<std::int64_t>(copies.size());
      copies.push_back(
          entrant.backend->prepare_weights(prepared.weights->source(copy, 0, desc.n), desc, entrant.kernel));
    }
    return std::make_unique<CpuRunner>(
        entrant, prepared.weights,
        std::vector<std::shared_ptr<PreparedWeights>>(copies.begin(), copies.begin() + wanted), inputs(desc));
  }

  void rest(double seconds) override { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

 private:
  std::shared_ptr<Inputs> inputs(const GemmDesc& desc) {
    if (inputs_ && m_ == desc.m) return inputs_;
    m_ = desc.m;
    inputs_ = std::make_shared<Inputs>();
    inputs_->x = Buffer(static_cast<std::size_t>(m_ * shape_.k) * dtype_size(shape_.dtype));
    fill_random_values(shape_.dtype, inputs_->x.data(), m_ * shape_.k, seed_ + 17);
    for (std::int64_t i = 0; i < m_; ++i) {
      inputs_->scales.push_back(0x1p-6f * (1.0f + random_uniform(seed_ + 18, static_cast<std::uint64_t>(i))));
    }
    inputs_->out = Buffer(static_cast<std::size_t>(m_ * shape_.n) * dtype_size(shape_.out));
    return inputs_;
  }

  TrackShape shape_;
  std::uint64_t seed_;
  std::map<std::string, Prepared> prepared_;  // by pattern, streamed or not
  std::int64_t m_ = 0;
  std::shared_ptr<Inputs> inputs_;  // of the last M
};

}  // namespace

std::vector<Pattern> patterns_of(const TrackShape& shape, const std::vector<Pattern>& patterns) {
  return shape.never_pruned ? std::vector<Pattern>{Pattern()} : patterns;
}

std::vector<std::int64_t> ms_of(const TrackShape& shape, const std::vector<std::int64_t>& ms) {
  std::vector<std::int64_t> all = ms;
  for (std::int64_t& m : all) m = shape.most_m > 0 ? std::min(m, shape.most_m) : m;
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

bool has_stored(const TrackShape& shape, Pattern pattern) {
  return shape.stored && shape.stored->members.front().pattern == pattern &&
         shape.stored->members.front().dtype == shape.dtype;
}

GemmDesc track_desc(const TrackShape& shape, Pattern pattern, std::int64_t m, Device device) {
  GemmDesc desc;
  desc.m = m;
  desc.n = shape.n;
  desc.k = shape.k;
  desc.x = desc.w = shape.dtype;
  desc.out = shape.out;
  desc.pattern = pattern;
  desc.layout = pattern.is_dense() ? Layout::kDense : shape.layout;
  desc.bias = shape.bias;
  desc.bias_dtype = DType::kBF16;  // as models have it
  desc.device = device;
  if (!has_stored(shape, pattern)) return desc;
  desc.layout = shape.stored->members.front().layout;
  for (const WeightSource& member : shape.stored->members) {
    if (member.bias != nullptr && member.bias_dtype != DType::kBF16) desc.bias_dtype = DType::kF32;
  }
  return desc;
}

LayerWeights track_weights(const TrackShape& shape, const GemmDesc& desc, std::uint64_t seed,
                           std::int64_t copies) {
  return has_stored(shape, desc.pattern) ? LayerWeights::joined(desc, shape.stored->members, copies)
                                         : LayerWeights::random(desc, seed, copies);
}

std::unique_ptr<RaceTrack> make_race_track(const TrackShape& shape, DeviceKind kind, std::uint64_t seed,
                                           [[maybe_unused]] TimedPart part) {
#ifdef SLIDESPARSE_HAVE_CUDA
  if (kind == DeviceKind::kCuda) return make_cuda_race_track(shape, seed, part);
#endif
  require(kind == DeviceKind::kCpu, "a race on a GPU in a build without CUDA");
  return std::make_unique<CpuTrack>(shape, seed);
}

std::vector<RaceEntrant> race_entrants(const GemmDesc& desc, std::span<const std::string> allowed,
                                       bool sparse_only) {
  std::vector<RaceEntrant> found;
  for (const Backend* backend : backends()) {
    if (!is_allowed(backend->name(), allowed) || backend->device() != desc.device.kind ||
        !backend->available().ok) {
      continue;
    }
    const std::vector<KernelDesc> all = backend->kernels();
    if (sparse_only &&
        std::none_of(all.begin(), all.end(), [](const KernelDesc& kernel) { return kernel.sparse; })) {
      continue;
    }
    for (KernelDesc& kernel : backend->candidates(desc)) found.push_back({desc, backend, std::move(kernel)});
  }
  return found;
}

}  // namespace slidesparse
