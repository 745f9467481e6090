// How fast attention over a paged cache is: bytes of keys and values a second for decode, products a second
// for prefill. Prints; fails on no speed.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/checked.h"
#include "kernels/cuda/device_test.h"
#include "kernels/cuda/fill.h"
#include "kernels/cuda/paged_attention.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kHeads = 28;  // Qwen2.5-7B
constexpr std::int64_t kKvHeads = 4;
constexpr std::int64_t kHeadDim = 128;
constexpr std::int64_t kPageSize = 16;
constexpr std::int64_t kRotation = std::int64_t{160} << 20;  // bytes beyond any second-level cache

// Everything of one step on the card, with so many caches that none is near when its turn comes.
class Bench {
 public:
  Bench(DType cache, std::int64_t sequences, std::int64_t tokens, std::int64_t context) {
    const std::int64_t blocks = ceil_div(context, kPageSize);
    const std::int64_t pages = sequences * blocks;
    const std::int64_t elements = pages * kPageSize * kKvHeads * kHeadDim;
    layer_bytes_ = elements * (cache == DType::kBF16 ? 2 : 1);
    layers_ = std::clamp<std::int64_t>(ceil_div(kRotation, layer_bytes_), 2, 16);
    keys_ = DeviceBuffer(layers_ * layer_bytes_, "speed: keys");
    values_ = DeviceBuffer(layers_ * layer_bytes_, "speed: values");
    cuda_check(cuda::fill_random(cache, keys_.data(), layers_ * elements, 1, stream_.handle()),
               "fill_random");
    cuda_check(cuda::fill_random(cache, values_.data(), layers_ * elements, 2, stream_.handle()),
               "fill_random");
    std::vector<std::int32_t> offsets, contexts, tables;
    for (std::int64_t s = 0; s <= sequences; ++s) offsets.push_back(static_cast<std::int32_t>(s * tokens));
    contexts.assign(static_cast<std::size_t>(sequences), static_cast<std::int32_t>(context));
    // Neighbouring blocks lie far apart, as after a while of serving.
    for (std::int64_t s = 0; s < sequences; ++s) {
      for (std::int64_t b = 0; b < blocks; ++b)
        tables.push_back(static_cast<std::int32_t>(b * sequences + s));
    }
    offsets_ = upload(offsets);
    contexts_ = upload(contexts);
    tables_ = upload(tables);
    const std::int64_t m = sequences * tokens;
    q_ = DeviceBuffer(m * kHeads * kHeadDim * 2, "speed: q");
    out_ = DeviceBuffer(m * kHeads * kHeadDim * 2, "speed: out");
    cuda_check(cuda::fill_random(DType::kBF16, q_.data(), m * kHeads * kHeadDim, 3, stream_.handle()),
               "fill_random");
    args_.q = q_.data();
    args_.ldq = args_.ldout = kHeads * kHeadDim;
    args_.out = out_.data();
    args_.m = m;
    args_.heads = kHeads;
    args_.kv_heads = kKvHeads;
    args_.head_dim = kHeadDim;
    args_.scale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));
    args_.cache.dtype = cache;
    args_.cache.key_scale = args_.cache.value_scale = cache == DType::kBF16 ? 1.0f : 1.0f / 128;
    args_.cache.pages = pages;
    args_.cache.page_size = kPageSize;
    args_.sequences = sequences;
    args_.cu_seqlens = offsets_.as<std::int32_t>();
    args_.context_lengths = contexts_.as<std::int32_t>();
    args_.block_tables = tables_.as<std::int32_t>();
    args_.max_blocks = blocks;
    args_.longest_query = tokens;
    args_.longest_context = context;
    workspace_ =
        DeviceBuffer(std::max<std::int64_t>(16, cuda::paged_attention_workspace(args_)), "speed: workspace");
    args_.workspace = workspace_.data();
    args_.workspace_bytes = workspace_.size();
    stream_.synchronize();
  }

  // Seconds of one call among many in a graph; the best of five launches.
  double seconds() {
    const std::int64_t calls = std::max<std::int64_t>(layers_, 8);
    const CudaGraph graph(stream_, [&] {
      for (std::int64_t i = 0; i < calls; ++i) {
        cuda::PagedAttentionArgs args = args_;
        args.cache.keys = keys_.data() + i % layers_ * layer_bytes_;
        args.cache.values = values_.data() + i % layers_ * layer_bytes_;
        cuda_check(cuda::paged_attention(args, stream_.handle()), "paged_attention");
      }
    });
    double best = 1;
    for (int i = 0; i < 6; ++i) {
      CudaEvent begin, end;
      begin.record(stream_.handle());
      graph.launch(stream_.handle());
      end.record(stream_.handle());
      end.synchronize();
      if (i > 0) best = std::min(best, end.seconds_since(begin) / static_cast<double>(calls));
    }
    return best;
  }
  std::int64_t cache_bytes() const { return 2 * layer_bytes_; }

 private:
  DeviceBuffer upload(const std::vector<std::int32_t>& host) {
    const auto bytes = static_cast<std::int64_t>(host.size() * sizeof(std::int32_t));
    DeviceBuffer buffer(bytes, "speed");
    copy_to_device(buffer.data(), host.data(), bytes, stream_.handle());
    stream_.synchronize();
    return buffer;
  }

  CudaStream stream_;
  std::int64_t layer_bytes_ = 0;  // of keys; as many of values
  std::int64_t layers_ = 0;
  DeviceBuffer keys_, values_, offsets_, contexts_, tables_, q_, out_, workspace_;
  cuda::PagedAttentionArgs args_;
};

class CudaPagedAttentionSpeed : public DeviceTest {};

TEST_F(CudaPagedAttentionSpeed, Decode) {
  SLIDESPARSE_NEED_MEMORY(std::int64_t{6} << 30);
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    for (const std::int64_t sequences : {1, 64, 256}) {
      for (const std::int64_t context : {272, 4096}) {
        Bench bench(cache, sequences, 1, context);
        const double seconds = bench.seconds();
        fmt::print("decode {}, {} sequences of {}: {:.1f} us, {:.0f} GB/s of keys and values\n",
                   dtype_name(cache), sequences, context, seconds * 1e6,
                   1e-9 * static_cast<double>(bench.cache_bytes()) / seconds);
      }
    }
  }
}

TEST_F(CudaPagedAttentionSpeed, Prefill) {
  SLIDESPARSE_NEED_MEMORY(std::int64_t{2} << 30);
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    for (const std::int64_t tokens : {64, 1024, 8192}) {
      const std::int64_t sequences = 16384 / tokens;
      Bench bench(cache, sequences, tokens, tokens);
      const double seconds = bench.seconds();
      const double flops = 2.0 * static_cast<double>(kHeads * kHeadDim * sequences) *
                           static_cast<double>(tokens * (tokens + 1));
      fmt::print("prefill {}, {} sequences of {}: {:.1f} us, {:.0f} TFLOP/s\n", dtype_name(cache), sequences,
                 tokens, seconds * 1e6, 1e-12 * flops / seconds);
    }
  }
}

}  // namespace
}  // namespace slidesparse
