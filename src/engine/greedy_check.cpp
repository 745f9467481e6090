#include "engine/greedy_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/checked.h"
#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/random.h"
#include "engine/sampler.h"
#include "engine/sequences.h"
#include "io/file_writer.h"
#include "io/mapped_file.h"

namespace slidesparse {
namespace {

constexpr double kAllowed = 0.5;  // with kAllowedLayers or fewer
constexpr double kAllowedInFp8 = 1.0;
constexpr std::int64_t kAllowedLayers = 16;
constexpr std::int64_t kPageSize = 16;
constexpr std::int64_t kFileMagic = 0x3159444545524753;  // "SGREEDY1"

// NaN when a number is none.
double standard_deviation(const float* values, std::int64_t count) {
  double sum = 0, squares = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += values[i];
  const double mean = sum / static_cast<double>(count);
  for (std::int64_t i = 0; i < count; ++i) squares += (values[i] - mean) * (values[i] - mean);
  return std::sqrt(squares / static_cast<double>(count));
}

}  // namespace

GreedyReference::GreedyReference(std::int64_t vocab, std::int64_t positions)
    : vocab_(vocab), positions_(positions) {
  const auto rows = static_cast<std::size_t>(kSequences * positions_);
  tokens_.resize(rows);
  greedy_.resize(rows);
  deviation_.resize(rows);
  logits_ = Buffer(rows * static_cast<std::size_t>(vocab_) * sizeof(float));
}

GreedyReference::GreedyReference(const Model& model, std::uint64_t seed, DType kv)
    : GreedyReference(model.config().vocab, std::min(kPrompt + kNew - 1, model.config().max_position)) {
  require(model.device().kind == DeviceKind::kCpu, "the reference is a model on the CPU");
  const std::int64_t prompt = std::min(kPrompt, positions_);
  for (std::int64_t s = 0; s < kSequences; ++s) {
    for (std::int64_t i = 0; i < prompt; ++i) {
      tokens_[row(s, i)] = static_cast<std::int32_t>(
          random_bits(seed, static_cast<std::uint64_t>(s * prompt + i)) % static_cast<std::uint64_t>(vocab_));
    }
  }
  const std::int64_t blocks = ceil_div(positions_, kPageSize);
  KvCacheKind kind;
  kind.rounded = kv == DType::kF8E4M3;
  const KvCache cache(model.config(), kSequences * blocks, kPageSize, {}, kind);
  StepBuilder step(blocks);
  Arena arena;
  Context context;
  context.arena = &arena;
  for (std::int64_t begin = 0, end = prompt; begin < positions_; begin = end++) {
    step.clear();
    for (std::int64_t s = 0; s < kSequences; ++s) {
      step.add(std::span(tokens_).subspan(row(s, begin), static_cast<std::size_t>(end - begin)), begin,
               consecutive_pages(s * blocks, blocks));
      step.want(0, end - begin);
    }
    Buffer out(static_cast<std::size_t>(step.wanted() * vocab_) * sizeof(float));
    model.forward(
        context, step.batch(), cache,
        TensorView::contiguous(static_cast<void*>(out.data()), DType::kF32, {step.wanted(), vocab_}));
    for (std::int64_t s = 0; s < kSequences; ++s) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::size_t at = row(s, i);
        const float* const from = out.as<float>() + (s * (end - begin) + i - begin) * vocab_;
        std::copy_n(from, vocab_, logits_.as<float>() + static_cast<std::int64_t>(at) * vocab_);
        deviation_[at] = standard_deviation(from, vocab_);
        greedy_[at] = std::isfinite(deviation_[at])
                          ? sample_token(SampleRow{}, {from, static_cast<std::size_t>(vocab_)}, {})
                          : -1;
        // What the next step feeds; behind what is no number anything may stand.
        if (i + 1 == end && end < positions_) tokens_[row(s, end)] = std::max(greedy_[at], 0);
      }
    }
  }
}

void GreedyReference::save(const std::filesystem::path& file) const {
  const std::int64_t sizes[]{kFileMagic, vocab_, positions_};
  std::string content;
  const auto add = [&](const void* data, std::size_t bytes) {
    content.append(static_cast<const char*>(data), bytes);
  };
  content.reserve(sizeof(sizes) + 16 * tokens_.size() + logits_.size());
  add(sizes, sizeof(sizes));
  add(tokens_.data(), 4 * tokens_.size());
  add(greedy_.data(), 4 * greedy_.size());
  add(deviation_.data(), 8 * deviation_.size());
  add(logits_.data(), logits_.size());
  write_file_atomically(file, content);
}

std::optional<GreedyReference> GreedyReference::load(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) return {};
  const MappedFile mapped(file);
  const std::byte* from = mapped.bytes().data();
  std::int64_t sizes[3] = {};
  if (mapped.bytes().size() < sizeof(sizes)) return {};
  std::memcpy(sizes, from, sizeof(sizes));
  const auto& [magic, vocab, positions] = sizes;
  if (magic != kFileMagic || vocab < 1 || vocab > INT32_MAX || positions < 1 || positions > kPrompt + kNew)
    return {};
  const auto rows = static_cast<std::size_t>(kSequences * positions);
  const std::size_t logits = rows * static_cast<std::size_t>(vocab) * sizeof(float);
  if (mapped.bytes().size() != sizeof(sizes) + 16 * rows + logits) return {};
  from += sizeof(sizes);
  const auto take = [&](void* to, std::size_t bytes) {
    std::memcpy(to, from, bytes);
    from += bytes;
  };
  GreedyReference reference(vocab, positions);
  take(reference.tokens_.data(), 4 * rows);
  take(reference.greedy_.data(), 4 * rows);
  take(reference.deviation_.data(), 8 * rows);
  take(reference.logits_.data(), logits);
  return reference;
}

std::int32_t GreedyReference::token(std::int64_t sequence, std::int64_t position) const {
  return tokens_[row(sequence, position)];
}

std::int32_t GreedyReference::greedy(std::int64_t sequence, std::int64_t position) const {
  return greedy_[row(sequence, position)];
}

double GreedyReference::gap(std::int64_t sequence, std::int64_t position, std::int32_t drawn) const {
  const std::size_t at = row(sequence, position);
  if (drawn < 0 || drawn >= vocab_ || greedy_[at] < 0) return std::numeric_limits<double>::infinity();
  const float* const values = logits(at);
  const double apart = static_cast<double>(values[greedy_[at]]) - values[drawn];
  return apart > 0 ? apart / deviation_[at] : 0;
}

void GreedyCheck::compare(const GreedyReference& reference, std::int64_t sequence, std::int64_t position,
                          std::int32_t drawn) {
  ++compared;
  const std::int32_t expected = reference.greedy(sequence, position);
  if (drawn != expected || expected < 0) ++differing;
  const double gap = reference.gap(sequence, position, drawn);
  worst_gap = std::max(worst_gap, gap);
  if (gap <= allowed) return;
  if (wrong++ > 0) return;
  first_wrong = fmt::format(
      "sequence {} drew token {} instead of {} behind {} tokens: in the reference their logits are {:.2f} "
      "standard deviations apart ({:.2f} allowed)",
      sequence, drawn, expected, position + 1, gap, allowed);
}

std::string GreedyCheck::words() const {
  if (wrong == 0) return "ok";
  return fmt::format("wrong result: {}; {} of {} greedy outputs are wrong", first_wrong, wrong, compared);
}

double greedy_tolerance(const ModelSummary& summary, std::int64_t layers, DType head, DType kv) {
  const bool fp8 =
      summary.dtype == kFp8Word || summary.dtype == "mixed" || head == DType::kF8E4M3 || kv == DType::kF8E4M3;
  const double deeper = static_cast<double>(std::max(layers, kAllowedLayers)) / kAllowedLayers;
  return (fp8 ? kAllowedInFp8 : kAllowed) * std::sqrt(deeper);
}

}  // namespace slidesparse
