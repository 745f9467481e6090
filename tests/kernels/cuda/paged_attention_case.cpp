#include "kernels/cuda/paged_attention_case.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/numeric.h"
#include "core/random.h"
#include "ops/attention.h"

namespace slidesparse {
namespace {

// Powers of two: codes times these are BF16 numbers, which the CPU can be given.
constexpr float kKeyScale = 0.03125f;
constexpr float kValueScale = 0.0078125f;
constexpr std::int64_t kGuardRows = 2;
constexpr double kRounding = 1.0 / 256;  // of BF16, relative

template <typename T>
void upload(DeviceBuffer& buffer, const std::vector<T>& host, const CudaStream& stream) {
  const auto bytes = static_cast<std::int64_t>(host.size() * sizeof(T));
  if (buffer.size() < bytes) buffer = DeviceBuffer(bytes, "test");
  copy_to_device(buffer.data(), host.data(), bytes, stream.handle());
  stream.synchronize();
}

}  // namespace

std::string AttentionCase::to_string() const {
  std::string text = fmt::format("{}/{} heads of {}, cache {}, pages of {}:", heads, kv_heads, head_dim,
                                 dtype_name(cache), page_size);
  for (const Sequence& s : sequences) text += fmt::format(" {} of {}", s.tokens, s.context);
  return text;
}

AttentionScene::AttentionScene(const AttentionCase& wanted, std::uint64_t seed) : case_(wanted) {
  for (const auto& s : case_.sequences)
    max_blocks_ = std::max(max_blocks_, ceil_div(s.context, case_.page_size));
  const auto sequences = static_cast<std::int64_t>(case_.sequences.size());
  pages_ = sequences * max_blocks_ + 3;
  fill_cache(seed);
  ldq_ = case_.heads * case_.head_dim + case_.q_pad;
  ldout_ = case_.heads * case_.head_dim + case_.out_pad;
  args_.heads = case_.heads;
  args_.kv_heads = case_.kv_heads;
  args_.head_dim = case_.head_dim;
  args_.scale = 1.0f / std::sqrt(static_cast<float>(case_.head_dim));
  args_.cache = {case_.cache, d_keys_.data(), d_values_.data(), kKeyScale,
                 kValueScale, pages_,         case_.page_size};
  args_.max_blocks = max_blocks_;
  set_sequences(case_.sequences, seed + 1);
}

// Pages are handed out in no order, the first to nobody. Positions of a context hold random values,
// everything else all bits set: NaN, which nobody may see.
void AttentionScene::fill_cache(std::uint64_t seed) {
  Random random(seed);
  const auto sequences = static_cast<std::int64_t>(case_.sequences.size());
  std::vector<std::int32_t> order(static_cast<std::size_t>(pages_));
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
  for (std::size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(i)))]);
  std::erase(order, 0);
  tables_.assign(order.begin(), order.begin() + sequences * max_blocks_);
  const std::int64_t row = case_.kv_heads * case_.head_dim;
  const auto count = static_cast<std::size_t>(pages_ * case_.page_size * row);
  keys_.assign(count, 0xffff);
  values_ = keys_;
  std::vector<std::uint8_t> key_codes(count, 0xff), value_codes(count, 0xff);
  for (std::int64_t s = 0; s < sequences; ++s) {
    for (std::int64_t t = 0; t < case_.sequences[static_cast<std::size_t>(s)].context; ++t) {
      const std::int64_t page = tables_[static_cast<std::size_t>(s * max_blocks_ + t / case_.page_size)];
      for (std::int64_t i = 0; i < row; ++i) {
        const auto at = static_cast<std::size_t>((page * case_.page_size + t % case_.page_size) * row + i);
        const float key = 1.5f * random.normal();
        const float value = 1.5f * random.normal();
        key_codes[at] = float_to_e4m3(key / kKeyScale);
        value_codes[at] = float_to_e4m3(value / kValueScale);
        const bool codes = case_.cache == DType::kF8E4M3;
        keys_[at] = float_to_bf16(codes ? e4m3_to_float(key_codes[at]) * kKeyScale : key);
        values_[at] = float_to_bf16(codes ? e4m3_to_float(value_codes[at]) * kValueScale : value);
      }
    }
  }
  magnitudes_ = values_;
  for (std::uint16_t& bits : magnitudes_) bits &= 0x7fff;
  if (case_.cache == DType::kBF16) {
    upload(d_keys_, keys_, stream_);
    upload(d_values_, values_, stream_);
  } else {
    upload(d_keys_, key_codes, stream_);
    upload(d_values_, value_codes, stream_);
  }
  upload(d_tables_, tables_, stream_);
}

void AttentionScene::set_sequences(const std::vector<AttentionCase::Sequence>& sequences,
                                   std::uint64_t seed) {
  case_.sequences = sequences;
  offsets_ = {0};
  contexts_.clear();
  args_.longest_query = args_.longest_context = 0;
  for (const auto& s : sequences) {
    offsets_.push_back(offsets_.back() + static_cast<std::int32_t>(s.tokens));
    contexts_.push_back(static_cast<std::int32_t>(s.context));
    args_.longest_query = std::max(args_.longest_query, s.tokens);
    args_.longest_context = std::max(args_.longest_context, s.context);
  }
  m_ = offsets_.back();
  q_.assign(static_cast<std::size_t>(m_ * ldq_), 0xffff);
  for (std::int64_t t = 0; t < m_; ++t) {
    for (std::int64_t i = 0; i < case_.heads * case_.head_dim; ++i) {
      const float value = case_.q_size * random_normal(seed, static_cast<std::uint64_t>(t * ldq_ + i));
      q_[static_cast<std::size_t>(t * ldq_ + i)] = float_to_bf16(value);
    }
  }
  upload(d_offsets_, offsets_, stream_);
  upload(d_contexts_, contexts_, stream_);
  upload(d_q_, q_, stream_);
  const std::int64_t bytes = (m_ + kGuardRows) * ldout_ * 2;
  if (d_out_.size() < bytes) d_out_ = DeviceBuffer(bytes, "test: out");
  args_.q = d_q_.data();
  args_.ldq = ldq_;
  args_.out = d_out_.data();
  args_.ldout = ldout_;
  args_.m = m_;
  args_.sequences = static_cast<std::int64_t>(sequences.size());
  args_.cu_seqlens = d_offsets_.as<std::int32_t>();
  args_.context_lengths = d_contexts_.as<std::int32_t>();
  args_.block_tables = d_tables_.as<std::int32_t>();
  poison_out();
}

void AttentionScene::poison_out() {
  fill_device(d_out_.data(), 0xff, d_out_.size(), stream_.handle());
  const std::int64_t bytes = cuda::paged_attention_workspace(args_);
  if (d_workspace_.size() < bytes) d_workspace_ = DeviceBuffer(bytes, "test: workspace");
  fill_device(d_workspace_.data(), 0xff, d_workspace_.size(), stream_.handle());
  args_.workspace = d_workspace_.data();
  args_.workspace_bytes = bytes;
}

std::vector<std::uint16_t> AttentionScene::result() {
  return on_host(d_out_.as<std::uint16_t>(), (m_ + kGuardRows) * ldout_, stream_);
}

void AttentionScene::check() {
  std::vector<std::uint16_t> first;
  for (int run = 0; run < 2; ++run) {
    poison_out();
    cuda_check(cuda::paged_attention(args_, stream_.handle()), "paged_attention");
    const auto got = result();
    if (run == 1) {
      ASSERT_TRUE(got == first) << "a second run gives other bits";
    }
    first = got;
  }
  compare();
}

// [m, heads, head_dim], contiguous.
std::vector<std::uint16_t> AttentionScene::oracle(std::vector<std::uint16_t>& values) {
  std::vector<std::uint16_t> out(static_cast<std::size_t>(m_ * case_.heads * case_.head_dim), 0xffff);
  const AttentionBatch batch{offsets_, contexts_, tables_, max_blocks_};
  const Shape shape{pages_, case_.page_size, case_.kv_heads, case_.head_dim};
  const KvPages pages{TensorView::contiguous(static_cast<void*>(keys_.data()), DType::kBF16, shape),
                      TensorView::contiguous(static_cast<void*>(values.data()), DType::kBF16, shape)};
  const Shape tokens{m_, case_.heads, case_.head_dim};
  TensorView q = TensorView::contiguous(static_cast<void*>(q_.data()), DType::kBF16, tokens);
  q.strides[0] = ldq_;
  Arena arena(static_cast<std::size_t>(paged_attention_workspace(batch, case_.kv_heads, case_.head_dim)));
  Context context;
  context.arena = &arena;
  paged_attention(context, batch, q, pages, args_.scale,
                  TensorView::contiguous(static_cast<void*>(out.data()), DType::kBF16, tokens));
  return out;
}

// Card and CPU round each weight to BF16, or to something finer, and the result: by 2^-8 of itself at most.
// Weights that are all off by 2^-8 move a result by 2^-8 times the sum of weight * |value|, which is
// attention over magnitudes. FP32 sums of 128 products and powers of two add less than 2^-12 of that sum.
// This is the most that there can be; since most errors cancel, the root of their mean square must stay
// within a third.
void AttentionScene::compare() {
  const auto got = result();
  const auto want = oracle(values_);
  const auto magnitude = oracle(magnitudes_);
  const std::int64_t width = case_.heads * case_.head_dim;
  double squares = 0, allowed_squares = 0;
  for (std::int64_t t = 0; t < m_ + kGuardRows; ++t) {
    for (std::int64_t i = 0; i < ldout_; ++i) {
      const std::uint16_t bits = got[static_cast<std::size_t>(t * ldout_ + i)];
      if (t >= m_ || i >= width) {
        ASSERT_EQ(bits, 0xffff) << "touched: token " << t << ", column " << i;
        continue;
      }
      const auto at = static_cast<std::size_t>(t * width + i);
      const double wanted = bf16_to_float(want[at]);
      const double sum = bf16_to_float(magnitude[at]) * (1.0 + kRounding);
      const double allowed =
          2.0 * kRounding * (sum + std::abs(wanted) * (1.0 + kRounding)) + sum / 4096 + 1e-30;
      const double error = std::abs(bf16_to_float(bits) - wanted);
      ASSERT_LE(error, allowed) << case_.to_string() << ": token " << t << ", head " << i / case_.head_dim
                                << ", element " << i % case_.head_dim << ", wanted " << wanted << ", found "
                                << bf16_to_float(bits);
      squares += error * error;
      allowed_squares += allowed * allowed;
    }
  }
  ASSERT_LE(std::sqrt(squares), std::sqrt(allowed_squares) / 3) << case_.to_string();
}

}  // namespace slidesparse
