#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <thread>

#include "core/buffer.h"
#include "core/cuda/check.h"
#include "core/cuda/memory.h"
#include "core/cuda/status.h"
#include "core/cuda/stream.h"
#include "core/fail.h"
#include "core/numeric.h"
#include "core/random.h"
#include "gemm/backends/cuda_weights.h"
#include "gemm/race_track.h"
#include "gemm/random_problem.h"
#include "kernels/cuda/quantize.h"
#include "quant/activations.h"

namespace slidesparse {
namespace {

// Tokens are this many random rows over and over: making 65536 different ones would take longer than the
// race, and no kernel can tell.
constexpr std::int64_t kDistinctTokens = 1024;
// A graph of a few runs hides the host's part of each; longer runs need none.
constexpr double kGraphBelowSeconds = 300e-6;
constexpr int kGraphRuns = 8;
constexpr int kRoughRuns = 4;
constexpr double kLongSeconds = 1e-3;
// What keeps a card busy for some 100 us, and nothing of use in its cache.
constexpr std::int64_t kBusyBytes = std::int64_t{384} << 20;
constexpr int kMostCopies = 64;
// Arenas round every part up to 256 bytes.
constexpr std::int64_t kWorkspaceSlack = 4096;

bool is_hopper() {
  return cuda_status().available && cuda_status().devices.front().major == 9;
}

struct Prepared {
  std::shared_ptr<LayerWeights> weights;  // on the host
  std::map<std::string, std::vector<std::shared_ptr<PreparedWeights>>> forms;
};

// What the sampled outputs of one problem should be.
struct Expected {
  struct Sample {
    std::int64_t n = 0, token = 0;
    std::vector<std::uint8_t> x;  // the token as it is multiplied
    float scale = 1;
    double value = 0;
  };
  std::vector<Sample> samples;
};

// What all entrants of one shape share; buffers grow to the largest that was asked for.
struct Shared {
  CudaStream stream;
  std::vector<std::uint16_t> tokens;  // BF16 [kDistinctTokens or fewer, k]
  DeviceBuffer x;                     // BF16 [m, k]
  std::int64_t x_rows = 0;
  DeviceBuffer q, scale, out, workspace;
  DeviceBuffer busy;
  PinnedBuffer samples{4 * kSampledOutputs};

  void occupy() {
    grow(busy, kBusyBytes, "bench delay");
    fill_device(busy.data(), 0, busy.size(), stream.handle());
  }

  static void grow(DeviceBuffer& buffer, std::int64_t bytes, const char* name) {
    if (buffer.size() >= bytes) return;
    buffer = DeviceBuffer();  // the old one goes before the new one comes
    buffer = DeviceBuffer(bytes, name);
  }

  void make_tokens(std::int64_t m, std::int64_t k, std::uint64_t seed) {
    const std::int64_t distinct = std::min(m, kDistinctTokens);
    const std::int64_t have = static_cast<std::int64_t>(tokens.size()) / k;
    for (std::int64_t i = have * k; i < distinct * k; ++i)
      tokens.push_back(float_to_bf16(random_normal(seed, static_cast<std::uint64_t>(i))));
    if (x_rows >= m) return;
    grow(x, m * k * 2, "bench activations");
    copy_to_device(x.data(), tokens.data(), distinct * k * 2, stream.handle());
    for (std::int64_t row = distinct; row < m; row += distinct) {
      copy_on_device(x.data() + row * k * 2, x.data(), std::min(distinct, m - row) * k * 2, stream.handle());
    }
    stream.synchronize();
    x_rows = m;
  }
};

class CudaRunner : public RaceRunner {
 public:
  CudaRunner(const RaceEntrant& entrant, std::shared_ptr<LayerWeights> weights,
             std::vector<std::shared_ptr<PreparedWeights>> copies, std::shared_ptr<Shared> shared,
             std::shared_ptr<const Expected> expected, TimedPart part)
      : entrant_(entrant),
        part_(part),
        plan_(entrant.backend->plan(entrant.desc, entrant.kernel)),
        footprint_(entrant.backend->footprint(entrant.desc, entrant.kernel)),
        weights_(std::move(weights)),
        copies_(std::move(copies)),
        shared_(std::move(shared)),
        expected_(std::move(expected)) {
    const GemmDesc& desc = entrant_.desc;
    element_ = static_cast<std::int64_t>(dtype_size(desc.x));
    out_element_ = static_cast<std::int64_t>(dtype_size(desc.out));
    // BF16 that is neither lifted nor padded is read as it is.
    direct_ = desc.x == DType::kBF16 && footprint_.lift == 0 && !footprint_.gathered &&
              footprint_.k_padded == desc.k && footprint_.m_padded <= desc.m;
    if (!direct_)
      Shared::grow(shared_->q, footprint_.m_padded * footprint_.k_padded * element_, "bench codes");
    Shared::grow(shared_->scale, footprint_.m_padded * 4, "bench scales");
    Shared::grow(shared_->out, desc.m * desc.n * out_element_, "bench output");
    Shared::grow(shared_->workspace, std::max<std::int64_t>(plan_.workspace_bytes, 0) + kWorkspaceSlack,
                 "bench workspace");
  }

  std::string check() override {
    const GemmDesc& desc = entrant_.desc;
    fill_device(shared_->out.data(), 0xff, desc.m * desc.n * out_element_, shared_->stream.handle());
    quantise();
    multiply(0);
    for (std::size_t i = 0; i < expected_->samples.size(); ++i) {
      const Expected::Sample& sample = expected_->samples[i];
      copy_to_host(shared_->samples.data() + static_cast<std::int64_t>(i) * out_element_,
                   shared_->out.data() + (sample.token * desc.n + sample.n) * out_element_, out_element_,
                   shared_->stream.handle());
    }
    shared_->stream.synchronize();
    for (std::size_t i = 0; i < expected_->samples.size(); ++i) {
      const Expected::Sample& sample = expected_->samples[i];
      const double got = output_at(desc.out, shared_->samples.data(), static_cast<std::int64_t>(i));
      const double allowed = output_tolerance(desc, entrant_.kernel, weights_->source(0, sample.n, 1),
                                              sample.x.data(), sample.scale, sample.value, is_hopper());
      if (!(std::fabs(got - sample.value) <= allowed)) {
        return fmt::format("wrong result: token {} channel {} is {}, not {} (allowed {:.2g})", sample.token,
                           sample.n, got, sample.value, allowed);
      }
    }
    return "ok";
  }

  double time(double at_least) override {
    // Others have had the same memory meanwhile.
    if (part_ == TimedPart::kProduct) quantise();
    if (one_run_ == 0) one_run_ = rough();
    if (at_least == 0) return one_run_;
    if (one_run_ < kGraphBelowSeconds && !graph_) {
      graph_runs_ = std::max(kGraphRuns, static_cast<int>(copies_.size()));
      graph_ = std::make_unique<CudaGraph>(shared_->stream, [&] {
        for (int i = 0; i < graph_runs_; ++i) run(static_cast<std::size_t>(i));
      });
      one_run_ = measure([&] { graph_->launch(shared_->stream.handle()); }, 1) / graph_runs_;
    }
    if (graph_) {
      const int launches = std::max(1, static_cast<int>(std::ceil(at_least / (one_run_ * graph_runs_))));
      return measure([&] { graph_->launch(shared_->stream.handle()); }, launches) / graph_runs_;
    }
    return measure([&] { run(next_++); }, std::max(1, static_cast<int>(std::ceil(at_least / one_run_))));
  }

 private:
  // What is timed.
  void run(std::size_t round) {
    if (part_ == TimedPart::kWhole) quantise();
    multiply(round);
  }

  void quantise() {
    if (direct_) return;
    const GemmDesc& desc = entrant_.desc;
    cuda::QuantizeArgs args;
    args.out = desc.x;
    args.m = desc.m;
    args.k = desc.k;
    args.x = shared_->x.data();
    args.ldx = desc.k;
    args.lift = footprint_.lift;
    if (footprint_.gathered) args.perm = copies_.front()->input_order();
    args.q = shared_->q.data();
    args.ldq = footprint_.k_padded;
    args.scale = desc.x == DType::kBF16 ? nullptr : shared_->scale.as<float>();
    args.m_padded = footprint_.m_padded;
    cuda_check(cuda::quantize(args, shared_->stream.handle()), "quantize", desc.to_string());
  }

  void multiply(std::size_t round) {
    const GemmDesc& desc = entrant_.desc;
    Arena arena(shared_->workspace.data(), static_cast<std::size_t>(shared_->workspace.size()));
    Context context;
    context.device = desc.device;
    context.stream = shared_->stream.handle();
    context.arena = &arena;
    entrant_.backend->run(
        plan_, *copies_[round % copies_.size()],
        {direct_ ? shared_->x.data() : shared_->q.data(),
         desc.x == DType::kBF16 ? nullptr : shared_->scale.as<float>(), shared_->out.data()},
        context);
  }

  // Of one run, or of a few when it is short. They wait behind something long until the host has launched
  // them all: their time is the card's then and not the host's. The run that was checked says nothing:
  // libraries load kernels when they first run. The lesser of both counts, because a host that is held up
  // makes either look slow, and a kernel that is dropped now is not seen again.
  double rough() {
    shared_->occupy();
    const double one = measure([&] { run(next_++); }, 1);
    if (one > kLongSeconds) return one;
    shared_->occupy();
    return std::min(one, measure([&] { run(next_++); }, kRoughRuns));
  }

  // Seconds of one call of `body`, of `times` in a row.
  template <typename Body>
  double measure(const Body& body, int times) {
    CudaEvent start, end;
    start.record(shared_->stream.handle());
    for (int i = 0; i < times; ++i) body();
    end.record(shared_->stream.handle());
    end.synchronize();
    return end.seconds_since(start) / times;
  }

  RaceEntrant entrant_;
  TimedPart part_;
  GemmPlan plan_;
  Footprint footprint_;
  std::shared_ptr<LayerWeights> weights_;
  std::vector<std::shared_ptr<PreparedWeights>> copies_;
  std::shared_ptr<Shared> shared_;
  std::shared_ptr<const Expected> expected_;
  std::unique_ptr<CudaGraph> graph_;
  int graph_runs_ = 0;
  std::int64_t element_ = 1;      // bytes, of what is multiplied
  std::int64_t out_element_ = 2;  // bytes, of the output
  bool direct_ = false;
  double one_run_ = 0;
  std::size_t next_ = 0;
};

class CudaTrack : public RaceTrack {
 public:
  CudaTrack(const TrackShape& shape, std::uint64_t seed, TimedPart part)
      : shape_(shape), seed_(seed), part_(part), shared_(std::make_shared<Shared>()) {}

  std::unique_ptr<RaceRunner> prepare(const RaceEntrant& entrant) override {
    const GemmDesc& desc = entrant.desc;
    Prepared& prepared = prepared_[desc.pattern.to_string()];
    if (!prepared.weights)
      prepared.weights = std::make_shared<LayerWeights>(track_weights(shape_, desc, seed_, 1));
    auto& copies = prepared.forms[entrant.backend->weight_form(desc, entrant.kernel)];
    const std::int64_t l2 = cuda_status().devices.front().l2_bytes;
    const std::int64_t wanted =
        desc.m <= kStreamingTokens
            ? std::min<std::int64_t>(kMostCopies, 1 + 2 * l2 / layer_weight_bytes(desc))
            : 1;
    while (static_cast<std::int64_t>(copies.size()) < wanted) {
      copies.push_back(
          entrant.backend->prepare_weights(prepared.weights->source(0, 0, desc.n), desc, entrant.kernel));
    }
    shared_->make_tokens(desc.m, shape_.k, seed_ + 17);
    return std::make_unique<CudaRunner>(
        entrant, prepared.weights,
        std::vector<std::shared_ptr<PreparedWeights>>(copies.begin(), copies.begin() + wanted), shared_,
        expected(desc, *prepared.weights), part_);
  }

  bool healthy() override {
    try {
      shared_->stream.synchronize();
      const CudaEvent event;
      return true;
    } catch (const Error&) {
      return false;
    }
  }

  void rest(double seconds) override {
    shared_->stream.synchronize();
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  }

 private:
  // By the reference, once for all kernels of a problem. Token t of x is row t % (x_rows, at most
  // kDistinctTokens) of the tokens that were made.
  std::shared_ptr<const Expected> expected(const GemmDesc& desc, const LayerWeights& weights) {
    std::shared_ptr<const Expected>& known = expected_[desc.to_string()];
    if (known) return known;
    auto made = std::make_shared<Expected>();
    for (int i = 0; i < kSampledOutputs; ++i) {
      Expected::Sample sample;
      sample.n = i * (desc.n - 1) / (kSampledOutputs - 1);
      sample.token = i * (desc.m - 1) / (kSampledOutputs - 1);
      const std::uint16_t* row =
          shared_->tokens.data() + sample.token % std::min(shared_->x_rows, kDistinctTokens) * desc.k;
      sample.x.resize(static_cast<std::size_t>(desc.k) * 2);
      if (desc.x == DType::kBF16) {
        std::memcpy(sample.x.data(), row, sample.x.size());
      } else {
        quantise_tokens(desc.x, row, 1, desc.k, desc.k, sample.x.data(), &sample.scale);
      }
      sample.value = reference_output(desc, weights.source(0, sample.n, 1), sample.x.data(), sample.scale);
      made->samples.push_back(std::move(sample));
    }
    known = made;
    return known;
  }

  TrackShape shape_;
  std::uint64_t seed_;
  TimedPart part_;
  std::shared_ptr<const void> staging_ = hold_weight_staging();
  std::shared_ptr<Shared> shared_;
  std::map<std::string, std::shared_ptr<const Expected>> expected_;  // by problem
  std::map<std::string, Prepared> prepared_;                         // by pattern
};

}  // namespace

std::unique_ptr<RaceTrack> make_cuda_race_track(const TrackShape& shape, std::uint64_t seed, TimedPart part) {
  return std::make_unique<CudaTrack>(shape, seed, part);
}

}  // namespace slidesparse
