#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/cuda/memory.h"
#include "model/model.h"

namespace slidesparse {

// The indices of one step, on the card (kernels/cuda/qkv.h and paged_attention.h say what they mean).
struct CudaStep {
  std::int64_t tokens = 0;
  std::int64_t sequences = 0;
  std::int64_t wanted = 0;
  std::int64_t max_blocks = 0;
  std::int64_t longest_query = 0;              // at most, of any sequence: new tokens
  std::int64_t longest_context = 0;            // and with those in the cache
  bool whole = true;                           // no sequence has anything in the cache yet
  const std::int32_t* token_ids = nullptr;     // [tokens]
  const std::int32_t* positions = nullptr;     // [tokens]
  const std::int32_t* slots = nullptr;         // [tokens]: page * page_size + place in it
  const std::int32_t* cu_seqlens = nullptr;    // [sequences + 1]
  const std::int32_t* contexts = nullptr;      // [sequences]
  const std::int32_t* block_tables = nullptr;  // [sequences, max_blocks]
  const std::int32_t* wanted_rows = nullptr;   // [wanted]
};

// Steps of one token a sequence are padded to the next of these, so that few graphs serve all batches: every
// number up to 8, every eighth to 64, every sixteenth to 256, every 32nd beyond.
std::int64_t padded_sequences(std::int64_t sequences);

// Bytes on the card that steps of up to `tokens` tokens and `rows` wanted rows take beside activations,
// logits and cache: indices, what is drawn, log probabilities.
std::int64_t step_extra_bytes(std::int64_t vocab, std::int64_t tokens, std::int64_t rows,
                              std::int64_t max_blocks);

// Copies the indices of batches to the card in stream order, from pinned memory. Batches of equal sizes stand
// at equal addresses there, so that a graph can read them.
class CudaStepBuffers {
 public:
  // Position of a token whose keys and values go nowhere; it is rotated as the first one.
  static constexpr std::int32_t kNowhere = -1;

  // Memory for steps of so many tokens and sequences (wanted rows are at most tokens), in `sets` sets on the
  // host. upload() grows what is too small, which moves it.
  void reserve(std::int64_t tokens, std::int64_t sequences, std::int64_t max_blocks, std::size_t sets);
  // The copy out of the same set before must be done.
  CudaStep upload(const Batch& batch, std::int64_t page_size, void* stream, std::size_t set = 0);

 private:
  void grow(std::int64_t bytes, std::size_t set);

  std::vector<PinnedBuffer> host_;
  DeviceBuffer device_;
};

}  // namespace slidesparse
