#include "model/calibrator.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/fail.h"
#include "core/interrupt.h"
#include "model/decoder.h"
#include "model/rotary_frequencies.h"
#include "ops/elementwise.h"
#include "ops/second_moments.h"

namespace slidesparse {
namespace {

// Tokens of one step: short samples are batched up to it.
constexpr std::int64_t kStepTokens = 2048;
constexpr std::int64_t kPageSize = 64;

std::int64_t wide_columns(const ModelConfig& config) {
  return std::max(config.heads * config.head_dim, config.intermediate);
}

}  // namespace

struct Calibrator::State {
  ModelConfig config;
  std::filesystem::path directory;
  WeightTable table;
  std::int64_t length = 0;
  std::int64_t samples = 0;
  std::int64_t per_step = 0;  // samples
  std::vector<float> frequencies;
  Buffer residual;  // BF16 [samples * length, hidden]
  Buffer wide;      // BF16 [samples * length, wide_columns]: attention's outputs, then SiLU's
  KvCache cache;    // of one layer and one step
  Arena arena;
  Context context;

  std::int64_t layer = 0;
  int group = 0;  // that collect() takes next
  std::unique_ptr<WeightReader> reader;
  DecoderNorms norms;
  std::vector<Linear> linears;  // those of the group before `group`, or that of the last one

  State(const ModelConfig& model, const std::filesystem::path& path, std::int64_t tokens, std::int64_t sample)
      : config(model),
        directory(path),
        table(weight_table(model)),
        length(sample),
        samples(tokens / sample),
        per_step(std::clamp<std::int64_t>(kStepTokens / sample, 1, samples)),
        frequencies(rotary_frequencies(model.rope, model.head_dim)),
        residual(static_cast<std::size_t>(2 * tokens * model.hidden)),
        wide(static_cast<std::size_t>(2 * tokens * wide_columns(model))),
        cache(one_layer(model), per_step * ceil_div(sample, kPageSize), kPageSize) {
    context.arena = &arena;
  }

  static ModelConfig one_layer(ModelConfig model) {
    model.layers = 1;
    return model;
  }

  const FusedGroup& group_at(int index) const {
    return table.groups[static_cast<std::size_t>(layer * kGroupsPerLayer + index)];
  }

  TensorView rows_of(Buffer& buffer, std::int64_t first, std::int64_t count, std::int64_t columns) const {
    return TensorView::contiguous(buffer.as<std::uint16_t>() + first * columns, DType::kBF16,
                                  {count, columns});
  }

  TensorView matrix(std::int64_t rows, std::int64_t columns) {
    return TensorView::contiguous(arena.allocate<std::uint16_t>(rows * columns), DType::kBF16,
                                  {rows, columns});
  }

  void open_layer() {
    // A new reader: copies that it made of the last layer's weights go with it.
    reader = open_weights(directory, config, false);
    norms = read_norms(config, *reader, layer);
    linears.clear();
  }

  // A reservation that covers any step's scratch, so that the arena does not grow while it is in use.
  void reserve(std::int64_t tokens, std::int64_t moments) {
    const std::int64_t columns = config.hidden + 3 * wide_columns(config) + 2 * config.head_dim +
                                 (config.heads + 2 * config.kv_heads) * config.head_dim;
    std::int64_t bytes = 4 * tokens * columns + moments + 64 * static_cast<std::int64_t>(Buffer::kAlignment);
    for (const Linear& linear : linears) bytes += linear.workspace_bytes(tokens);
    const std::vector<std::int32_t> offsets = step_offsets(tokens / length);
    const std::vector<std::int32_t> lengths(static_cast<std::size_t>(tokens / length),
                                            static_cast<std::int32_t>(length));
    bytes += paged_attention_workspace({offsets, lengths, {}, 0}, config.kv_heads, config.head_dim);
    arena.reserve(static_cast<std::size_t>(bytes));
  }

  std::vector<std::int32_t> step_offsets(std::int64_t sequences) const {
    std::vector<std::int32_t> offsets;
    for (std::int64_t i = 0; i <= sequences; ++i) offsets.push_back(static_cast<std::int32_t>(i * length));
    return offsets;
  }

  // qkv outputs -> attention's outputs in `wide`.
  TensorView attention(std::int64_t first, std::int64_t tokens, const TensorView& normed) {
    const std::int64_t q_width = config.heads * config.head_dim;
    const std::int64_t kv_width = config.kv_heads * config.head_dim;
    const std::int64_t sequences = tokens / length;
    const std::int64_t blocks = ceil_div(length, kPageSize);
    const std::vector<std::int32_t> offsets = step_offsets(sequences);
    const std::vector<std::int32_t> lengths(static_cast<std::size_t>(sequences),
                                            static_cast<std::int32_t>(length));
    std::vector<std::int32_t> pages(static_cast<std::size_t>(sequences * blocks));
    for (std::size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<std::int32_t>(i);
    std::vector<std::int32_t> positions(static_cast<std::size_t>(tokens));
    for (std::size_t i = 0; i < positions.size(); ++i)
      positions[i] = static_cast<std::int32_t>(static_cast<std::int64_t>(i) % length);
    const TensorView out = rows_of(wide, first, tokens, q_width);
    Arena::Scope scope(arena);
    const TensorView angles = TensorView::contiguous(arena.allocate<float>(tokens * config.head_dim),
                                                     DType::kF32, {tokens, config.head_dim});
    rotary_table(context, positions, frequencies, angles);
    const TensorView qkv = matrix(tokens, q_width + 2 * kv_width);
    run_group(normed, qkv);
    attend(context, config, norms, {offsets, lengths, pages, blocks}, cache.layer(0), angles, qkv, out);
    return out;
  }

  void run_group(const TensorView& x, const TensorView& out) {
    std::vector<const Linear*> pointers;
    for (const Linear& linear : linears) pointers.push_back(&linear);
    run_side_by_side(context, pointers, x, out);
  }

  // residual += the group's output; its input is in `wide`.
  TensorView add_to_residual(std::int64_t first, std::int64_t tokens) {
    const TensorView stream = rows_of(residual, first, tokens, config.hidden);
    Arena::Scope scope(arena);
    const TensorView update = matrix(tokens, config.hidden);
    run_group(rows_of(wide, first, tokens, linears.front().k()), update);
    add(context, stream, update);
    return stream;
  }

  // The input of `group` for some tokens, in the arena or in `wide`.
  TensorView input_of(std::int64_t first, std::int64_t tokens) {
    const TensorView stream = rows_of(residual, first, tokens, config.hidden);
    switch (static_cast<GroupInput>(group)) {
      case GroupInput::kQkv: {
        const TensorView normed = matrix(tokens, config.hidden);
        rms_norm(context, stream, norms.input, config.rms_eps, normed);
        return normed;
      }
      case GroupInput::kO: {
        const TensorView normed = matrix(tokens, config.hidden);
        rms_norm(context, stream, norms.input, config.rms_eps, normed);
        return attention(first, tokens, normed);
      }
      case GroupInput::kGateUp: {
        const TensorView normed = matrix(tokens, config.hidden);
        rms_norm(context, add_to_residual(first, tokens), norms.post_attention, config.rms_eps, normed);
        return normed;
      }
      case GroupInput::kDown:
        break;
    }
    const TensorView active = rows_of(wide, first, tokens, config.intermediate);
    const TensorView normed = matrix(tokens, config.hidden);
    const TensorView gate_up = matrix(tokens, 2 * config.intermediate);
    rms_norm(context, stream, norms.post_attention, config.rms_eps, normed);
    run_group(normed, gate_up);
    silu_mul(context, gate_up, active);
    return active;
  }

  template <typename Body>
  void for_steps(const std::function<void(std::int64_t)>& progress, const Body& body) {
    for (std::int64_t s = 0; s < samples; s += per_step) {
      check_interrupt("layers that are finished are kept: run the same command again to go on");
      const std::int64_t count = std::min(per_step, samples - s);
      Arena::Scope scope(arena);
      body(s * length, count * length);
      if (progress) progress(count);
    }
  }

  void check_finite(std::span<const float> moments, std::int64_t k) const {
    const std::int64_t stride = static_cast<std::int64_t>(moments.size()) == k ? 1 : k + 1;
    for (std::int64_t c = 0; c < k; ++c) {
      const float moment = moments[static_cast<std::size_t>(c * stride)];
      if (std::isfinite(moment)) continue;
      const FusedGroup& where = group_at(group);
      fail_input(
          "{}: input channel {} of {} is not finite in the calibration run; are the model's weights sound?",
          directory.string(), c, where.name);
    }
  }
};

Calibrator::Calibrator(const ModelConfig& config, const std::filesystem::path& directory,
                       std::span<const std::int32_t> tokens, std::int64_t length) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (length < 1 || length > config.max_position) {
    fail(ErrorKind::kUsage, "calibration samples of {} tokens: 1 to {} (the model's positions) are possible",
         length, config.max_position);
  }
  require(count > 0 && count % length == 0, "{} tokens in samples of {}", count, length);
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= config.vocab)
      fail_input("token id {} is not in the vocabulary of {} tokens", token, config.vocab);
  }
  state_ = std::make_unique<State>(config, directory, count, length);
  state_->open_layer();
  const TensorView embedding =
      state_->reader->plain({state_->table.embedding, {config.vocab, config.hidden}});
  embed(state_->context, embedding, tokens, state_->rows_of(state_->residual, 0, count, config.hidden));
}

Calibrator::~Calibrator() = default;

std::int64_t Calibrator::activation_bytes(const ModelConfig& config, std::int64_t tokens) {
  return 2 * tokens * (config.hidden + wide_columns(config));
}

void Calibrator::collect(std::span<float> moments, const std::function<void(std::int64_t)>& progress) {
  State& state = *state_;
  require(state.group < kGroupsPerLayer, "the layer has no more groups");
  const std::int64_t k = state.group_at(state.group).members.front().k;
  const auto size = static_cast<std::int64_t>(moments.size());
  require(size == 0 || size == k || size == k * k, "{}: {} moments for {} channels",
          state.group_at(state.group).name, size, k);
  const TensorView sum = size == k ? TensorView::contiguous(moments.data(), DType::kF32, {k})
                                   : TensorView::contiguous(moments.data(), DType::kF32, {k, k});
  std::fill(moments.begin(), moments.end(), 0.0f);
  const std::int64_t step = state.per_step * state.length;
  state.reserve(step, second_moments_workspace(step, k, size == k * k));
  state.for_steps(progress, [&](std::int64_t first, std::int64_t tokens) {
    const TensorView x = state.input_of(first, tokens);
    if (size > 0) add_second_moments(state.context, x, sum);
  });
  const float mean = 1.0f / static_cast<float>(state.samples * state.length);
  for (float& moment : moments) moment *= mean;
  if (size > 0) state.check_finite(moments, k);
  ++state.group;
  set_weights({});
}

void Calibrator::set_weights(std::span<const std::uint16_t* const> members) {
  State& state = *state_;
  require(state.group > 0, "no group was collected yet");
  const FusedGroup& group = state.group_at(state.group - 1);
  require(members.empty() || members.size() == group.members.size(), "{}: {} weights for {} linears",
          group.name, members.size(), group.members.size());
  state.linears.clear();
  for (std::size_t i = 0; i < group.members.size(); ++i) {
    WeightSource source = state.reader->linear(group.members[i], group);
    require(source.dtype == DType::kBF16 && source.layout == Layout::kDense, "{}: plain weights are needed",
            group.members[i].name);
    if (!members.empty()) source.values = members[i];
    state.linears.emplace_back(group.members[i].name, source, LinearOptions{});
  }
}

void Calibrator::end_layer(const std::function<void(std::int64_t)>& progress) {
  State& state = *state_;
  require(state.group == kGroupsPerLayer, "{} groups of the layer were collected", state.group);
  state.reserve(state.per_step * state.length, 0);
  state.for_steps(progress,
                  [&](std::int64_t first, std::int64_t tokens) { state.add_to_residual(first, tokens); });
  state.group = 0;
  if (++state.layer < state.config.layers) state.open_layer();
}

std::int64_t Calibrator::layer() const {
  return state_->layer;
}

std::span<const std::byte> Calibrator::state() const {
  return {state_->residual.data(), state_->residual.size()};
}

void Calibrator::restore(std::int64_t layer, std::span<const std::byte> state) {
  require(layer > 0 && layer < state_->config.layers && state.size() == state_->residual.size(),
          "state of {} bytes before layer {}", state.size(), layer);
  std::memcpy(state_->residual.data(), state.data(), state.size());
  state_->layer = layer;
  state_->group = 0;
  state_->open_layer();
}

}  // namespace slidesparse
