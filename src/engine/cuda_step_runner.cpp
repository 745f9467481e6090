#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <vector>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/cuda/check.h"
#include "core/cuda/memory.h"
#include "core/cuda/stream.h"
#include "core/fail.h"
#include "engine/card_step_runner.h"
#include "kernels/cuda/feed.h"
#include "kernels/cuda/sample.h"
#include "model/cuda_decoder.h"
#include "model/decoder.h"

namespace slidesparse {
namespace {

// Alternatives beside each token that a step with these rows computes: -1 no log probabilities at all, 0 the
// tokens' own. Two numbers, so that few graphs serve all steps.
int top_of(std::span<const DrawRow> rows) {
  int most = -1;
  for (const DrawRow& row : rows) most = std::max(most, row.logprobs);
  return most > 0 ? cuda::kMostTopLogprobs : most;
}
static_assert(kMostLogprobs == cuda::kMostTopLogprobs);

class CudaStepRunner final : public StepRunner {
 public:
  CudaStepRunner(const Model& model, const RunnerLimits& limits)
      : decoder_(*model.cuda_decoder()),
        limits_(limits),
        max_blocks_(ceil_div(limits.max_context, limits.page_size)),
        rows_(padded_sequences(limits.max_sequences)),
        cache_(model.config(), limits.pages, limits.page_size, {DeviceKind::kCuda, 0}, limits.kv) {
    const std::int64_t vocab = decoder_.config().vocab;
    const std::int64_t tokens = std::max(limits.max_tokens, rows_);
    indices_.reserve(tokens, rows_, max_blocks_, kSteps);
    workspace_ =
        DeviceBuffer(decoder_.workspace_bytes(tokens, rows_, rows_, tokens, max_blocks_ * limits.page_size),
                     "activations and scratch");
    arena_ = Arena(workspace_.data(), static_cast<std::size_t>(workspace_.size()));
    logits_ = DeviceBuffer(rows_ * vocab * 4, "logits");
    drawn_ = DeviceBuffer(rows_ * 4, "drawn tokens");
    sample_rows_ = DeviceBuffer(rows_ * static_cast<std::int64_t>(sizeof(SampleRow)), "sampling options");
    sample_workspace_ =
        DeviceBuffer(std::max<std::int64_t>(8, cuda::sample_workspace_bytes(rows_, vocab)), "sampling");
    logprobs_ = DeviceBuffer(rows_ * 4, "log probabilities");
    top_ids_ = DeviceBuffer(rows_ * kMostLogprobs * 4, "log probabilities");
    top_logprobs_ = DeviceBuffer(rows_ * kMostLogprobs * 4, "log probabilities");
    fill_device(drawn_.data(), 0, drawn_.size(), stream_.handle());
    if (limits.penalties) {
      seen_ = DeviceBuffer(2 * rows_ * seen_words(vocab) * 4, "seen tokens");
      fill_device(seen_.data(), 0, seen_.size(), stream_.handle());
    }
    for (Flight& flight : flights_) {
      flight.drawn = PinnedBuffer(rows_ * 4);
      flight.rows = PinnedBuffer(sample_rows_.size());
      flight.logprobs = PinnedBuffer(logprobs_.size());
      flight.top_ids = PinnedBuffer(top_ids_.size());
      flight.top_logprobs = PinnedBuffer(top_logprobs_.size());
    }
    stream_.synchronize();
  }

  ~CudaStepRunner() override {
    try {
      stream_.synchronize();
    } catch (const Error&) {
      // Whoever waited for the step has had the error.
    }
  }

  std::int64_t max_blocks() const override { return max_blocks_; }
  int most_logprobs() const override {
    return decoder_.config().vocab <= cuda::kMostTopVocab ? kMostLogprobs : 0;
  }

  void start(const Batch& batch, std::span<const DrawRow> rows) override {
    require(under_way_.size() < kSteps, "{} steps are under way", under_way_.size());
    check(batch, rows);
    const std::size_t which = next_;
    Flight& flight = flights_[which];
    const bool decode = limits_.graphs && batch.tokens.size() == batch.context_lengths.size() &&
                        batch.wanted_rows.size() == batch.tokens.size();
    const Batch padded = decode ? pad(batch) : batch;
    CudaStep step = indices_.upload(padded, cache_.page_size(), stream_.handle(), which);
    const Drawing drawing{std::all_of(rows.begin(), rows.end(),
                                      [](const DrawRow& row) {
                                        return is_greedy(row.sample) && row.sample.repetition_penalty == 1;
                                      }),
                          top_of(rows)};
    auto* const host_rows = reinterpret_cast<SampleRow*>(flight.rows.data());
    std::transform(rows.begin(), rows.end(), host_rows, [](const DrawRow& row) { return row.sample; });
    std::fill(host_rows + rows.size(), host_rows + step.wanted, SampleRow{});
    copy_to_device(sample_rows_.data(), host_rows, step.wanted * static_cast<std::int64_t>(sizeof(SampleRow)),
                   stream_.handle());
    if (decode) {
      // The graph serves every context that the cache can hold.
      step.longest_query = 1;
      step.longest_context = max_blocks_ * cache_.page_size();
      run_graph(step, drawing);
    } else {
      run(step, drawing);
    }
    copy_to_host(flight.drawn.data(), drawn_.data(), step.wanted * 4, stream_.handle());
    flight.logprobs_of.clear();
    if (drawing.top >= 0) {
      for (const DrawRow& row : rows) flight.logprobs_of.push_back(row.logprobs);
      copy_to_host(flight.logprobs.data(), logprobs_.data(), step.wanted * 4, stream_.handle());
      const std::int64_t bytes = step.wanted * drawing.top * 4;
      copy_to_host(flight.top_ids.data(), top_ids_.data(), bytes, stream_.handle());
      copy_to_host(flight.top_logprobs.data(), top_logprobs_.data(), bytes, stream_.handle());
    }
    flight.done.record(stream_.handle());
    flight.count = rows.size();
    under_way_.push_back(which);
    next_ = (next_ + 1) % kSteps;
  }

  DrawnRows finish() override {
    require(!under_way_.empty(), "no step is under way");
    Flight& flight = flights_[under_way_.front()];
    under_way_.pop_front();
    flight.done.synchronize();
    told_.clear();
    const auto* const logprobs = reinterpret_cast<const float*>(flight.logprobs.data());
    const auto* const ids = reinterpret_cast<const std::int32_t*>(flight.top_ids.data());
    const auto* const top = reinterpret_cast<const float*>(flight.top_logprobs.data());
    for (std::size_t i = 0; i < flight.logprobs_of.size(); ++i) {
      RowLogprobs& row = told_.emplace_back();
      row.logprob = logprobs[i];
      // -1: no more tokens can be chosen.
      for (int j = 0; j < flight.logprobs_of[i]; ++j) {
        const std::size_t at = i * kMostLogprobs + static_cast<std::size_t>(j);
        if (ids[at] >= 0) row.top.push_back({ids[at], top[at]});
      }
    }
    return {{reinterpret_cast<const std::int32_t*>(flight.drawn.data()), flight.count}, told_};
  }

  void see(std::int32_t slot, std::span<const std::int32_t> tokens) override {
    require(limits_.penalties && slot >= 0 && slot < 2 * rows_, "penalty of slot {}: not made ready for",
            slot);
    const std::int64_t count = static_cast<std::int64_t>(tokens.size());
    const std::int64_t offsets[2] = {0, count};
    // Rare and short: memory of its own, and a wait.
    DeviceBuffer list(std::max<std::int64_t>(1, count) * 4, "seen tokens");
    DeviceBuffer ends(sizeof(offsets), "seen tokens");
    DeviceBuffer where(4, "seen tokens");
    copy_to_device(list.data(), tokens.data(), count * 4, stream_.handle());
    copy_to_device(ends.data(), offsets, sizeof(offsets), stream_.handle());
    copy_to_device(where.data(), &slot, 4, stream_.handle());
    cuda::SeenArgs args;
    args.tokens = list.as<std::int32_t>();
    args.offsets = ends.as<std::int64_t>();
    args.slot = where.as<std::int32_t>();
    args.lists = 1;
    args.vocab = decoder_.config().vocab;
    args.seen = seen_.as<std::uint32_t>();
    cuda_check(cuda::mark_seen(args, stream_.handle()), "mark_seen");
    stream_.synchronize();
  }

 private:
  static constexpr std::size_t kSteps = 2;

  // What the kernels that draw depend on besides sizes: each is another graph.
  struct Drawing {
    bool greedy = false;
    int top = -1;                                      // see top_of
    auto operator<=>(const Drawing&) const = default;  // NOLINT(modernize-use-nullptr): there is no zero
  };

  // A step's own host memory: reused when it has been waited for.
  struct Flight {
    PinnedBuffer drawn;
    PinnedBuffer rows;
    PinnedBuffer logprobs, top_ids, top_logprobs;
    CudaEvent done;
    std::size_t count = 0;
    std::vector<int> logprobs_of;  // DrawRow::logprobs of each row; empty when no row wants any
  };

  void check(const Batch& batch, std::span<const DrawRow> rows) const {
    require(rows.size() == batch.wanted_rows.size() && batch.max_blocks == max_blocks_,
            "step: {} rows of {}, tables of {} blocks instead of {}", rows.size(), batch.wanted_rows.size(),
            batch.max_blocks, max_blocks_);
    if (static_cast<std::int64_t>(batch.tokens.size()) > limits_.max_tokens ||
        static_cast<std::int64_t>(batch.context_lengths.size()) > limits_.max_sequences ||
        static_cast<std::int64_t>(rows.size()) > limits_.max_sequences) {
      fail_input("a step of {} tokens and {} sequences: at most {} and {} were made ready for",
                 batch.tokens.size(), batch.context_lengths.size(), limits_.max_tokens,
                 limits_.max_sequences);
    }
  }

  // The batch with sequences of one token behind it that write nowhere: their context is that token alone, in
  // the first page of the cache, whatever is there.
  Batch pad(const Batch& batch) {
    const auto have = static_cast<std::int64_t>(batch.tokens.size());
    const auto size = static_cast<std::size_t>(padded_sequences(have));
    padded_.tokens.assign(batch.tokens.begin(), batch.tokens.end());
    padded_.positions.assign(batch.positions.begin(), batch.positions.end());
    padded_.offsets.assign(batch.cu_seqlens.begin(), batch.cu_seqlens.end());
    padded_.contexts.assign(batch.context_lengths.begin(), batch.context_lengths.end());
    padded_.tables.assign(batch.block_tables.begin(), batch.block_tables.end());
    padded_.wanted.assign(batch.wanted_rows.begin(), batch.wanted_rows.end());
    padded_.tokens.resize(size, 0);
    padded_.positions.resize(size, CudaStepBuffers::kNowhere);
    padded_.contexts.resize(size, 1);
    padded_.tables.resize(size * static_cast<std::size_t>(max_blocks_), 0);
    while (padded_.wanted.size() < size) {
      padded_.wanted.push_back(static_cast<std::int32_t>(padded_.wanted.size()));
      padded_.offsets.push_back(static_cast<std::int32_t>(padded_.offsets.size()));
    }
    return {padded_.tokens, padded_.positions, padded_.offsets, padded_.contexts,
            padded_.tables, max_blocks_,       padded_.wanted};
  }

  Context context() {
    Context context;
    context.device = {DeviceKind::kCuda, 0};
    context.stream = stream_.handle();
    context.arena = &arena_;
    return context;
  }

  void run(const CudaStep& step, const Drawing& drawing) {
    cuda_check(cuda::feed_drawn(const_cast<std::int32_t*>(step.token_ids), step.tokens,
                                drawn_.as<std::int32_t>(), rows_, stream_.handle()),
               "feed_drawn");
    decoder_.run(context(), step, cache_, logits_.as<float>());
    if (step.wanted == 0) return;
    cuda::SampleArgs args;
    args.logits = logits_.as<float>();
    args.ld = args.vocab = decoder_.config().vocab;
    args.rows = step.wanted;
    args.row = reinterpret_cast<const SampleRow*>(sample_rows_.data());
    args.all_greedy = drawing.greedy;
    args.seen = limits_.penalties ? seen_.as<std::uint32_t>() : nullptr;
    args.token = drawn_.as<std::int32_t>();
    if (drawing.top >= 0) args.logprob = logprobs_.as<float>();
    if (drawing.top > 0) {
      args.top_n = drawing.top;
      args.top_id = top_ids_.as<std::int32_t>();
      args.top_logprob = top_logprobs_.as<float>();
    }
    args.workspace = sample_workspace_.data();
    cuda_check(cuda::sample(args, stream_.handle()), "sample");
  }

  // The first step of a size runs as it is: kernels are loaded and plans made. The second is recorded.
  void run_graph(const CudaStep& step, const Drawing& drawing) {
    Recorded& recorded = graphs_[{step.tokens, drawing}];
    if (!recorded.seen) {
      recorded.seen = true;
      run(step, drawing);
      return;
    }
    if (!recorded.graph) recorded.graph = std::make_unique<CudaGraph>(stream_, [&] { run(step, drawing); });
    recorded.graph->launch(stream_.handle());
  }

  struct Recorded {
    bool seen = false;
    std::unique_ptr<CudaGraph> graph;
  };
  struct Padded {
    std::vector<std::int32_t> tokens, positions, offsets, contexts, tables, wanted;
  };

  const CudaDecoder& decoder_;
  RunnerLimits limits_;
  std::int64_t max_blocks_;
  std::int64_t rows_;
  CudaStream stream_;
  KvCache cache_;
  CudaStepBuffers indices_;
  DeviceBuffer workspace_, logits_, drawn_, sample_rows_, sample_workspace_, seen_;
  DeviceBuffer logprobs_, top_ids_, top_logprobs_;
  Arena arena_;
  std::array<Flight, kSteps> flights_;
  std::deque<std::size_t> under_way_;
  std::size_t next_ = 0;
  Padded padded_;
  std::vector<RowLogprobs> told_;  // of the step that finish() gave last
  std::map<std::pair<std::int64_t, Drawing>, Recorded> graphs_;
};

}  // namespace

std::unique_ptr<StepRunner> make_card_step_runner(const Model& model, const RunnerLimits& limits) {
  return std::make_unique<CudaStepRunner>(model, limits);
}

}  // namespace slidesparse
