#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/buffer.h"
#include "gemm/desc.h"

namespace slidesparse {

// A fused linear's weights where a directory has them: one source for each of the linears that it is made of.
struct StoredLayer {
  std::vector<WeightSource> members;        // of one layout, pattern and dtype
  std::shared_ptr<const void> keeps_alive;  // what the sources look into
};

// Weights of one problem as a directory stores them (values, codes, scales, bias), `copies` times, so that
// they can be read in turn from memory and not from a cache.
class LayerWeights {
 public:
  // Finite values: E4M3 and BF16 below 2, so that sums stay moderate. A bias is BF16, as models have it.
  // Split ones have a random permutation.
  static LayerWeights random(const GemmDesc& desc, std::uint64_t seed, std::int64_t copies = 1);
  // The rows of `members` below each other; scales become FP32. Of split ones the permutation has to outlive
  // this. Throws kInternal when they are not what `desc` says.
  // With `row_order` row i of each member, all of which have that many, is its row row_order[i].
  static LayerWeights joined(const GemmDesc& desc, std::span<const WeightSource> members,
                             std::int64_t copies = 1, std::span<const std::int32_t> row_order = {});

  std::int64_t copies() const { return copies_; }
  std::int64_t copy_bytes() const { return value_bytes_ + code_bytes_; }
  // Rows [row, row + rows) of a copy.
  WeightSource source(std::int64_t copy, std::int64_t row, std::int64_t rows) const;

 private:
  LayerWeights(const GemmDesc& desc, std::int64_t copies);
  void repeat_first();

  GemmDesc desc_;
  std::int64_t value_bytes_ = 0;
  std::int64_t code_bytes_ = 0;
  std::int64_t copies_ = 1;
  Buffer values_;
  Buffer codes_;
  std::vector<std::int32_t> own_perm_;  // of random split weights
  std::span<const std::int32_t> perm_;
  std::vector<float> scales_;
  std::vector<std::uint16_t> bias_;  // one of these two
  std::vector<float> wide_bias_;
};

// Bytes of one copy's values and codes.
std::int64_t layer_weight_bytes(const GemmDesc& desc);

}  // namespace slidesparse
