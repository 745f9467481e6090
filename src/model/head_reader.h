#pragma once

#include <optional>

#include "core/buffer.h"
#include "model/weight_reader.h"

namespace slidesparse {

// Another reader's weights with the head in a type of its own. A BF16 head is quantised when it is read: one
// scale per output channel, by the rules of the linears (docs/format.md, "Numbers"), never pruned. A head
// that is stored in that type already is handed on. The embedding stays as it is, also where the head was its
// rows. Views of the head live as long as this reader, all others as long as the one it was made from.
class HeadReader final : public WeightReader {
 public:
  // head: BF16, I8 or F8_E4M3. `source` has to outlive this.
  HeadReader(WeightReader& source, DType head);

  WeightSource linear(const LinearSpec& spec, const FusedGroup& group) override;
  WeightSource linear_shape(const LinearSpec& spec, const FusedGroup& group) override;
  TensorView plain(const PlainSpec& spec) override;
  // Throws kUnsupported for a head that is stored in another quantised type, kInput for weights that are no
  // numbers.
  WeightSource head(const LinearSpec& spec, const TensorView& embedding) override;
  WeightSource head_shape(const LinearSpec& spec) override;
  std::string describe() const override;

 private:
  // Whether a head as it is stored has to be quantised.
  bool quantises(const WeightSource& stored) const;

  WeightReader& source_;
  DType head_;
  Buffer codes_;   // [vocab, hidden]
  Buffer scales_;  // BF16 [vocab]
};

}  // namespace slidesparse
