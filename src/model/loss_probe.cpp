#include "model/loss_probe.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/fail.h"
#include "core/interrupt.h"
#include "core/random.h"
#include "model/decoder.h"
#include "ops/elementwise.h"

namespace slidesparse {
namespace {

// Tokens of one step: short samples are batched up to it.
constexpr std::int64_t kStepTokens = 2048;
constexpr std::int64_t kPageSize = 64;

// The first linear of a group in its layer, and how many there are.
struct Place {
  std::int64_t first;
  std::size_t count;
};

Place place_of(GroupInput group) {
  switch (group) {
    case GroupInput::kQkv:
      return {static_cast<std::int64_t>(LayerLinear::kQuery), 3};
    case GroupInput::kO:
      return {static_cast<std::int64_t>(LayerLinear::kOutput), 1};
    case GroupInput::kGateUp:
      return {static_cast<std::int64_t>(LayerLinear::kGate), 2};
    case GroupInput::kDown:
      break;
  }
  return {static_cast<std::int64_t>(LayerLinear::kDown), 1};
}

// One step of whole samples.
struct Step {
  std::int64_t first = 0;  // token
  std::int64_t first_wanted = 0;
  std::vector<std::int32_t> offsets, lengths, pages, positions, wanted;
  std::int64_t blocks = 0;

  std::int64_t tokens() const { return offsets.back(); }
  AttentionBatch batch() const { return {offsets, lengths, pages, blocks}; }
};

}  // namespace

struct LossProbe::State {
  ModelConfig config;
  std::int64_t layer = 0;
  std::unique_ptr<WeightReader> reader;
  DecoderWeights weights;
  WeightTable table;
  std::vector<Step> steps;
  Buffer residual;  // BF16 [tokens, hidden]: input of `layer`, unchanged model
  Buffer logits;    // F32 [positions, vocab], unchanged model
  KvCache cache;    // of one layer and one step
  Arena arena;
  Context context;

  State(const ModelConfig& model, const std::filesystem::path& directory, std::int64_t tokens,
        std::int64_t length)
      : config(model),
        reader(open_weights(directory, model, false)),
        weights(read_decoder(model, *reader, LinearOptions{})),
        table(weight_table(model)),
        residual(static_cast<std::size_t>(2 * tokens * model.hidden)),
        cache(model, per_step(tokens, length) * ceil_div(length, kPageSize), kPageSize, {},
              {DType::kBF16, true}) {
    context.arena = &arena;
  }

  static std::int64_t per_step(std::int64_t tokens, std::int64_t length) {
    return std::clamp<std::int64_t>(kStepTokens / length, 1, tokens / length);
  }

  // Positions are every `stride`-th token.
  void make_steps(std::int64_t tokens, std::int64_t length, std::int64_t stride) {
    const std::int64_t each = per_step(tokens, length) * length;
    std::int64_t wanted = 0;
    for (std::int64_t first = 0; first < tokens; first += each) {
      Step step;
      step.first = first;
      step.first_wanted = wanted;
      step.blocks = ceil_div(length, kPageSize);
      const std::int64_t count = std::min(each, tokens - first);
      for (std::int64_t t = 0; t <= count; t += length) step.offsets.push_back(static_cast<std::int32_t>(t));
      step.lengths.assign(step.offsets.size() - 1, static_cast<std::int32_t>(length));
      for (std::int64_t p = 0; p < (count / length) * step.blocks; ++p)
        step.pages.push_back(static_cast<std::int32_t>(p));
      for (std::int64_t t = 0; t < count; ++t) {
        step.positions.push_back(static_cast<std::int32_t>(t % length));
        if ((first + t) % stride == stride - 1) step.wanted.push_back(static_cast<std::int32_t>(t));
      }
      wanted += static_cast<std::int64_t>(step.wanted.size());
      steps.push_back(std::move(step));
    }
    logits = Buffer(static_cast<std::size_t>(4 * wanted * config.vocab));
  }

  const FusedGroup& group_of(GroupInput group) const {
    return table.groups[static_cast<std::size_t>(layer * kGroupsPerLayer + static_cast<int>(group))];
  }

  // The unchanged weights of a group's member.
  WeightSource source_of(GroupInput group, std::size_t member) {
    const FusedGroup& specs = group_of(group);
    const WeightSource source = reader->linear(specs.members[member], specs);
    require(source.dtype == DType::kBF16 && source.layout == Layout::kDense, "{}: plain weights are needed",
            specs.members[member].name);
    return source;
  }

  TensorView rows_of(const Step& step) {
    return TensorView::contiguous(residual.as<std::uint16_t>() + step.first * config.hidden, DType::kBF16,
                                  {step.tokens(), config.hidden});
  }

  TensorView logits_of(const Step& step, std::int64_t first, std::int64_t count) {
    return TensorView::contiguous(logits.as<float>() + (step.first_wanted + first) * config.vocab,
                                  DType::kF32, {count, config.vocab});
  }

  // Runs layers [layer, last) on the kept residual stream, then `body` with what came out.
  template <typename Body>
  void for_steps(std::int64_t last, const Body& body) {
    for (const Step& step : steps) {
      check_interrupt("nothing of the sensitivities is kept: run the same command again");
      arena.reserve(static_cast<std::size_t>(
          decoder_workspace(weights, step.batch(), static_cast<std::int64_t>(step.wanted.size()))));
      Arena::Scope scope(arena);
      const DecoderStream stream = make_stream(context, weights, step.positions);
      const TensorView kept = rows_of(step);
      std::memcpy(stream.residual.data, kept.data, static_cast<std::size_t>(kept.byte_size()));
      run_layers(context, weights, layer, last, step.batch(), cache, stream);
      body(step, stream);
    }
  }
};

LossProbe::LossProbe(const ModelConfig& config, const std::filesystem::path& directory,
                     std::span<const std::int32_t> tokens, std::int64_t length, std::int64_t positions) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (length < 1 || length > config.max_position) {
    fail(ErrorKind::kUsage, "samples of {} tokens: 1 to {} (the model's positions) are possible", length,
         config.max_position);
  }
  require(count > 0 && count % length == 0 && positions > 0, "{} tokens in samples of {}, {} positions",
          count, length, positions);
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= config.vocab)
      fail_input("token id {} is not in the vocabulary of {} tokens", token, config.vocab);
  }
  state_ = std::make_unique<State>(config, directory, count, length);
  State& state = *state_;
  state.make_steps(count, length, std::max<std::int64_t>(1, count / positions));
  embed(state.context, state.weights.embedding, tokens,
        TensorView::contiguous(state.residual.as<std::uint16_t>(), DType::kBF16, {count, config.hidden}));
  state.for_steps(config.layers, [&](const Step& step, const DecoderStream& stream) {
    project_rows(state.context, state.weights, stream, step.wanted, nullptr,
                 [&](std::int64_t first, const TensorView& logits) {
                   const TensorView kept = state.logits_of(step, first, logits.dim(0));
                   std::memcpy(kept.data, logits.data, static_cast<std::size_t>(kept.byte_size()));
                 });
  });
}

LossProbe::~LossProbe() = default;

std::int64_t LossProbe::held_bytes(const ModelConfig& config, std::int64_t tokens, std::int64_t positions) {
  return 2 * tokens * config.hidden + 4 * std::min(tokens, positions) * config.vocab;
}

std::int64_t LossProbe::layer() const {
  return state_->layer;
}

double LossProbe::divergence(GroupInput group, std::span<const std::uint16_t* const> members) {
  State& state = *state_;
  require(state.layer < state.config.layers, "the model has no more layers");
  const Place place = place_of(group);
  require(members.size() == place.count, "{} weights for {} linears", members.size(), place.count);
  std::vector<Linear> other;
  for (std::size_t i = 0; i < place.count; ++i) {
    WeightSource source = state.source_of(group, i);
    source.values = members[i];
    other.emplace_back(state.group_of(group).members[i].name, source, LinearOptions{});
  }
  const auto swap = [&] {
    std::ranges::swap_ranges(
        other, std::span(state.weights.linears)
                   .subspan(static_cast<std::size_t>(state.layer * kLinearsPerLayer + place.first)));
  };
  swap();
  double sum = 0;
  std::int64_t count = 0;
  state.for_steps(state.config.layers, [&](const Step& step, const DecoderStream& stream) {
    project_rows(state.context, state.weights, stream, step.wanted, nullptr,
                 [&](std::int64_t first, const TensorView& logits) {
                   std::vector<double> divergences(static_cast<std::size_t>(logits.dim(0)));
                   kl_divergences(state.context, state.logits_of(step, first, logits.dim(0)), logits,
                                  divergences);
                   for (const double divergence : divergences) sum += divergence;
                   count += logits.dim(0);
                 });
  });
  swap();
  return sum / static_cast<double>(count);
}

double LossProbe::rounding() {
  State& state = *state_;
  require(state.layer < state.config.layers, "the model has no more layers");
  std::vector<std::vector<std::uint16_t>> members;
  std::vector<const std::uint16_t*> pointers;
  for (std::size_t i = 0; i < place_of(GroupInput::kQkv).count; ++i) {
    const LinearSpec& spec = state.group_of(GroupInput::kQkv).members[i];
    const auto* values = static_cast<const std::uint16_t*>(state.source_of(GroupInput::kQkv, i).values);
    std::vector<std::uint16_t>& bits = members.emplace_back(values, values + spec.n * spec.k);
    // Zeros stay: what is next to zero is no rounding of it.
    for (std::size_t w = 0; w < bits.size(); ++w) {
      if ((bits[w] & 0x7fff) != 0) bits[w] = static_cast<std::uint16_t>(bits[w] ^ (random_bits(i, w) & 1));
    }
    pointers.push_back(bits.data());
  }
  return divergence(GroupInput::kQkv, pointers);
}

void LossProbe::end_layer() {
  State& state = *state_;
  require(state.layer < state.config.layers, "the model has no more layers");
  state.for_steps(state.layer + 1, [&](const Step& step, const DecoderStream& stream) {
    add(state.context, stream.residual, stream.update);
    const TensorView kept = state.rows_of(step);
    std::memcpy(kept.data, stream.residual.data, static_cast<std::size_t>(kept.byte_size()));
  });
  ++state.layer;
}

}  // namespace slidesparse
