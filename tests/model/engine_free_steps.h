#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "core/buffer.h"
#include "model/model.h"

namespace slidesparse::test {

// Logits [rows, vocab] of one call.
using Rows = std::vector<std::vector<float>>;

struct SequenceStep {
  std::vector<std::int32_t> tokens;
  std::int64_t start = 0;           // position of the first token
  std::vector<std::int32_t> table;  // pages
};

// Runs one ragged step and returns the logits of every token.
inline Rows run_step(const Model& model, const KvCache& cache, const std::vector<SequenceStep>& steps) {
  std::vector<std::int32_t> tokens, positions, offsets{0}, contexts, tables, wanted;
  std::size_t blocks = 0;
  for (const SequenceStep& step : steps) blocks = std::max(blocks, step.table.size());
  for (const SequenceStep& step : steps) {
    for (std::size_t i = 0; i < step.tokens.size(); ++i) {
      tokens.push_back(step.tokens[i]);
      positions.push_back(static_cast<std::int32_t>(step.start) + static_cast<std::int32_t>(i));
    }
    offsets.push_back(static_cast<std::int32_t>(tokens.size()));
    contexts.push_back(static_cast<std::int32_t>(step.start) + static_cast<std::int32_t>(step.tokens.size()));
    tables.insert(tables.end(), step.table.begin(), step.table.end());
    tables.resize(contexts.size() * blocks, 0);
  }
  wanted.resize(tokens.size());
  std::iota(wanted.begin(), wanted.end(), 0);
  const auto vocab = static_cast<std::size_t>(model.config().vocab);
  std::vector<float> logits(tokens.size() * vocab, -12345.0f);
  Arena arena;
  Context context;
  context.arena = &arena;
  model.forward(
      context, {tokens, positions, offsets, contexts, tables, static_cast<std::int64_t>(blocks), wanted},
      cache,
      TensorView::contiguous(static_cast<void*>(logits.data()), DType::kF32,
                             {static_cast<std::int64_t>(tokens.size()), static_cast<std::int64_t>(vocab)}));
  Rows rows;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    rows.emplace_back(logits.begin() + static_cast<std::ptrdiff_t>(i * vocab),
                      logits.begin() + static_cast<std::ptrdiff_t>((i + 1) * vocab));
  }
  return rows;
}

inline std::vector<std::int32_t> pages_from(std::int32_t first, std::int32_t count) {
  std::vector<std::int32_t> pages(static_cast<std::size_t>(count));
  std::iota(pages.begin(), pages.end(), first);
  return pages;
}

// All logits of a fresh sequence in one step.
inline Rows run_whole(const Model& model, const std::vector<std::int32_t>& tokens) {
  const auto pages = static_cast<std::int32_t>(tokens.size() / 16 + 1);
  const KvCache cache(model.config(), pages, 16);
  return run_step(model, cache, {{tokens, 0, pages_from(0, pages)}});
}

}  // namespace slidesparse::test
