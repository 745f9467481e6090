#include "model/head_reader.h"

#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/parallel.h"
#include "quant/weights.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kRowBlock = 64;  // rows that one thread quantises at a time

}  // namespace

HeadReader::HeadReader(WeightReader& source, DType head) : source_(source), head_(head) {
  require(head == DType::kBF16 || head == DType::kI8 || head == DType::kF8E4M3, "a head as {}",
          dtype_name(head));
}

WeightSource HeadReader::linear(const LinearSpec& spec, const FusedGroup& group) {
  return source_.linear(spec, group);
}
WeightSource HeadReader::linear_shape(const LinearSpec& spec, const FusedGroup& group) {
  return source_.linear_shape(spec, group);
}
TensorView HeadReader::plain(const PlainSpec& spec) {
  return source_.plain(spec);
}
std::string HeadReader::describe() const {
  return source_.describe();
}

bool HeadReader::quantises(const WeightSource& stored) const {
  if (stored.dtype == head_) return false;
  if (stored.dtype == DType::kBF16) return true;
  fail(ErrorKind::kUnsupported,
       "--head {}: {} has its head in {}, and what is quantised is not quantised again: leave --head out",
       dtype_word(head_), source_.describe(), dtype_word(stored.dtype));
}

WeightSource HeadReader::head_shape(const LinearSpec& spec) {
  WeightSource source = source_.head_shape(spec);
  if (!quantises(source)) return source;
  source.dtype = head_;
  source.values = nullptr;
  return source;
}

WeightSource HeadReader::head(const LinearSpec& spec, const TensorView& embedding) {
  WeightSource source = source_.head(spec, embedding);
  if (!quantises(source)) return source;
  if (codes_.size() == 0) {
    codes_ = Buffer(static_cast<std::size_t>(spec.n * spec.k) * dtype_size(head_));
    scales_ = Buffer(static_cast<std::size_t>(spec.n) * dtype_size(DType::kBF16));
    const auto* const weights = static_cast<const std::uint16_t*>(source.values);
    auto* const scales = scales_.as<std::uint16_t>();
    parallel_for(spec.n, kRowBlock, [&](std::int64_t begin, std::int64_t end) {
      quantise_weight_rows(DType::kBF16, weights + begin * spec.k, end - begin, spec.k, spec.k, head_,
                           codes_.data() + begin * spec.k, scales + begin, begin, spec.name);
    });
  }
  source.dtype = head_;
  source.values = codes_.data();
  source.scales = scales_.data();
  source.scale_dtype = DType::kBF16;
  return source;
}

}  // namespace slidesparse
