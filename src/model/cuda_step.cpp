#include "model/cuda_step.h"

#include <algorithm>
#include <array>

#include "core/checked.h"
#include "core/cuda/stream.h"
#include "core/sample_rules.h"
#include "kernels/cuda/sample.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kPart = 256;  // bytes: arrays begin on such boundaries

// Where the arrays of a step stand: token ids, positions, slots, offsets, contexts, tables, wanted rows.
struct StepLayout {
  std::array<std::int64_t, 8> at{};

  StepLayout(std::int64_t tokens, std::int64_t sequences, std::int64_t table_entries, std::int64_t wanted) {
    const std::array<std::int64_t, 7> counts{tokens,    tokens,        tokens, sequences + 1,
                                             sequences, table_entries, wanted};
    for (std::size_t i = 0; i < counts.size(); ++i) at[i + 1] = at[i] + round_up(4 * counts[i], kPart);
  }
  std::int64_t bytes() const { return at.back(); }
};

}  // namespace

std::int64_t padded_sequences(std::int64_t sequences) {
  const std::int64_t step = sequences <= 8 ? 1 : sequences <= 64 ? 8 : sequences <= 256 ? 16 : 32;
  return round_up(sequences, step);
}

std::int64_t step_extra_bytes(std::int64_t vocab, std::int64_t tokens, std::int64_t rows,
                              std::int64_t max_blocks) {
  constexpr std::int64_t kTop = 2 * 4 * cuda::kMostTopLogprobs;  // ids and their log probabilities
  const std::int64_t drawing = rows * (4 + static_cast<std::int64_t>(sizeof(SampleRow)) + 4 + kTop);
  return StepLayout(tokens, rows, rows * max_blocks, tokens).bytes() + drawing +
         std::max<std::int64_t>(8, cuda::sample_workspace_bytes(rows, vocab));
}

void CudaStepBuffers::grow(std::int64_t bytes, std::size_t set) {
  if (host_.size() <= set) host_.resize(set + 1);
  if (host_[set].size() < bytes) host_[set] = PinnedBuffer(bytes);
  if (device_.size() >= bytes) return;
  device_ = DeviceBuffer();
  device_ = DeviceBuffer(bytes, "step indices");
}

void CudaStepBuffers::reserve(std::int64_t tokens, std::int64_t sequences, std::int64_t max_blocks,
                              std::size_t sets) {
  const std::int64_t bytes = StepLayout(tokens, sequences, sequences * max_blocks, tokens).bytes();
  for (std::size_t set = 0; set < sets; ++set) grow(bytes, set);
}

CudaStep CudaStepBuffers::upload(const Batch& batch, std::int64_t page_size, void* stream, std::size_t set) {
  const auto tokens = static_cast<std::int64_t>(batch.tokens.size());
  const auto sequences = static_cast<std::int64_t>(batch.context_lengths.size());
  const auto wanted = static_cast<std::int64_t>(batch.wanted_rows.size());
  const StepLayout layout(tokens, sequences, static_cast<std::int64_t>(batch.block_tables.size()), wanted);
  grow(layout.bytes(), set);
  const auto host = [&](std::size_t i) {
    return reinterpret_cast<std::int32_t*>(host_[set].data() + layout.at[i]);
  };
  std::copy(batch.tokens.begin(), batch.tokens.end(), host(0));
  std::copy(batch.cu_seqlens.begin(), batch.cu_seqlens.end(), host(3));
  std::copy(batch.context_lengths.begin(), batch.context_lengths.end(), host(4));
  std::copy(batch.block_tables.begin(), batch.block_tables.end(), host(5));
  std::copy(batch.wanted_rows.begin(), batch.wanted_rows.end(), host(6));
  CudaStep step;
  for (std::int64_t s = 0; s < sequences; ++s) {
    const auto i = static_cast<std::size_t>(s);
    const std::int32_t begin = batch.cu_seqlens[i], end = batch.cu_seqlens[i + 1];
    step.longest_query = std::max<std::int64_t>(step.longest_query, end - begin);
    step.longest_context = std::max<std::int64_t>(step.longest_context, batch.context_lengths[i]);
    step.whole = step.whole && batch.context_lengths[i] == end - begin;
    for (std::int32_t t = begin; t < end; ++t) {
      const std::int64_t position = batch.positions[static_cast<std::size_t>(t)];
      host(1)[t] = static_cast<std::int32_t>(std::max<std::int64_t>(position, 0));
      host(2)[t] = -1;
      if (position == kNowhere) continue;
      const std::int64_t page =
          batch.block_tables[static_cast<std::size_t>(s * batch.max_blocks + position / page_size)];
      host(2)[t] = static_cast<std::int32_t>(page * page_size + position % page_size);
    }
  }
  copy_to_device(device_.data(), host_[set].data(), layout.bytes(), stream);
  const auto device = [&](std::size_t i) {
    return reinterpret_cast<const std::int32_t*>(device_.data() + layout.at[i]);
  };
  step.tokens = tokens;
  step.sequences = sequences;
  step.wanted = wanted;
  step.max_blocks = batch.max_blocks;
  step.token_ids = device(0);
  step.positions = device(1);
  step.slots = device(2);
  step.cu_seqlens = device(3);
  step.contexts = device(4);
  step.block_tables = device(5);
  step.wanted_rows = device(6);
  return step;
}

}  // namespace slidesparse
