#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/cuda/memory.h"
#include "core/cuda/stream.h"
#include "kernels/cuda/device_test.h"
#include "kernels/cuda/paged_attention.h"

// A ragged batch over a paged cache, on the host for the CPU's attention and on the card.
namespace slidesparse {

struct AttentionCase {
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  DType cache = DType::kBF16;
  std::int64_t page_size = 16;  // tokens
  struct Sequence {
    std::int64_t tokens = 0;   // of this step
    std::int64_t context = 0;  // with them
  };
  std::vector<Sequence> sequences = {};
  float q_size = 1.5f;     // standard deviation: how sharp softmax is
  std::int64_t q_pad = 0;  // columns of q's rows behind the last head
  std::int64_t out_pad = 0;

  std::string to_string() const;
};

class AttentionScene {
 public:
  AttentionScene(const AttentionCase& wanted, std::uint64_t seed);

  // New lengths for the same cache, whose filled positions they must not exceed, and a new q.
  void set_sequences(const std::vector<AttentionCase::Sequence>& sequences, std::uint64_t seed);
  // What paged_attention() is to be given, with bounds as tight as they can be; `out` is poisoned.
  cuda::PagedAttentionArgs& args() { return args_; }
  void poison_out();
  // Calls paged_attention() twice on poisoned memory: both times the same bits, then compare().
  void check();
  // The result on the card against the CPU's; untouched padding.
  void compare();
  std::vector<std::uint16_t> result();
  const CudaStream& stream() const { return stream_; }

 private:
  void fill_cache(std::uint64_t seed);
  std::vector<std::uint16_t> oracle(std::vector<std::uint16_t>& values);

  AttentionCase case_;
  CudaStream stream_;
  std::int64_t pages_ = 0;
  std::int64_t max_blocks_ = 0;
  std::int64_t m_ = 0;
  std::int64_t ldq_ = 0;
  std::int64_t ldout_ = 0;
  std::vector<std::uint16_t> keys_, values_, magnitudes_;  // BF16 [pages, page_size, kv_heads, head_dim]
  std::vector<std::int32_t> offsets_, contexts_, tables_;
  std::vector<std::uint16_t> q_;
  DeviceBuffer d_keys_, d_values_, d_tables_, d_offsets_, d_contexts_, d_q_, d_out_, d_workspace_;
  cuda::PagedAttentionArgs args_;
};

}  // namespace slidesparse
