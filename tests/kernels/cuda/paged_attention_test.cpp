#include "kernels/cuda/paged_attention.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/random.h"
#include "kernels/cuda/paged_attention_case.h"

namespace slidesparse {
namespace {

using Sequences = std::vector<AttentionCase::Sequence>;

constexpr std::int64_t kLengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 127, 300, 1100};

// Every length as new tokens, some behind a prefix that is in the cache; and a sequence with nothing new.
Sequences ragged(std::int64_t longest) {
  Sequences sequences{{0, 40}};
  std::int64_t prefix = 0;
  for (const std::int64_t length : kLengths) {
    if (length > longest) continue;
    sequences.push_back({length, length + prefix});
    prefix = (prefix * 3 + 21) % 200;
    if (length % 3 == 0) prefix = 0;
  }
  sequences.push_back({1, 777});
  sequences.push_back({0, 5});
  return sequences;
}

// One new token each.
Sequences single() {
  Sequences sequences{{0, 9}};
  for (const std::int64_t length : kLengths) sequences.push_back({1, length});
  sequences.push_back({1, 2500});
  return sequences;
}

struct Heads {
  std::int64_t heads, kv_heads;
};
class CudaPagedAttention : public DeviceTest, public testing::WithParamInterface<Heads> {
 protected:
  // Both head sizes and caches, pages of a size that is no power of two too.
  void check_all(const Sequences& sequences, std::uint64_t seed) {
    for (const std::int64_t head_dim : {64, 128}) {
      for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
        AttentionCase c{GetParam().heads, GetParam().kv_heads, head_dim, cache};
        c.page_size = head_dim == 64 ? 16 : 48;
        c.sequences = sequences;
        c.q_pad = 2 * c.kv_heads * head_dim;
        c.out_pad = cache == DType::kBF16 ? 0 : 8;
        SCOPED_TRACE(c.to_string());
        AttentionScene(c, seed).check();
        if (HasFatalFailure()) return;
      }
    }
  }
};

TEST_P(CudaPagedAttention, Decode) {
  check_all(single(), 1);
}
TEST_P(CudaPagedAttention, ShortQueries) {
  check_all(ragged(64), 2);
}
TEST_P(CudaPagedAttention, MixedBatch) {
  check_all(ragged(1100), 3);
}
INSTANTIATE_TEST_SUITE_P(Models, CudaPagedAttention,
                         testing::Values(Heads{32, 8}, Heads{28, 4}, Heads{14, 2}, Heads{9, 3}, Heads{40, 8},
                                         Heads{16, 16}, Heads{16, 1}),
                         [](const auto& which) {
                           return std::to_string(which.param.heads) + "over" +
                                  std::to_string(which.param.kv_heads);
                         });

class CudaPagedAttentionOther : public DeviceTest {};

// Few heads and tokens: what a slow checker gets through.
TEST_F(CudaPagedAttentionOther, Small) {
  for (const std::int64_t head_dim : {64, 128}) {
    for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
      AttentionCase c{3, 1, head_dim, cache};
      c.out_pad = 8;
      for (const Sequences& sequences :
           {Sequences{{1, 1}, {1, 300}, {0, 3}, {1, 130}}, Sequences{{2, 2}, {1, 20}, {17, 90}, {0, 1}},
            Sequences{{70, 100}, {130, 130}}}) {
        c.sequences = sequences;
        SCOPED_TRACE(c.to_string());
        AttentionScene(c, 4).check();
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Softmax that sees one key, and one that sees all of them alike.
TEST_F(CudaPagedAttentionOther, SharpAndFlat) {
  for (const float size : {0.0f, 0.05f, 20.0f}) {
    AttentionCase c{4, 2, 128};
    c.sequences = {{1, 900}, {150, 400}, {1, 17}};
    c.q_size = size;
    AttentionScene(c, 5).check();
    if (HasFatalFailure()) return;
  }
}

// Contexts of which every block, and every warp of it, has a part of another length.
TEST_F(CudaPagedAttentionOther, EveryContext) {
  AttentionCase c{2, 1, 64};
  for (std::int64_t context = 1; context <= 330; ++context) c.sequences.push_back({1, context});
  AttentionScene(c, 6).check();
  c.sequences.clear();
  for (std::int64_t tokens = 2; tokens <= 140; ++tokens) c.sequences.push_back({tokens, 2 * tokens});
  AttentionScene(c, 7).check();
}

// One sequence, all of the card: the most parts that there are.
TEST_F(CudaPagedAttentionOther, LongContext) {
  AttentionCase c{8, 1, 128};
  c.page_size = 64;
  for (const std::int64_t context : {40000, 33001}) {
    c.sequences = {{1, context}};
    AttentionScene(c, 8).check();
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaPagedAttentionOther, OneGraphServesAllContexts) {
  AttentionCase c{14, 2, 64};
  c.sequences = {{1, 3000}, {1, 2000}, {1, 1}, {1, 1300}};
  AttentionScene scene(c, 9);
  const cuda::PagedAttentionArgs args = scene.args();  // bounds of the longest contexts
  const Sequences steps[] = {{{1, 10}, {1, 64}, {1, 1}, {1, 65}},
                             {{1, 500}, {1, 1999}, {1, 1}, {1, 1}},
                             {{1, 3000}, {1, 2000}, {0, 1}, {1, 1300}}};
  scene.set_sequences(steps[0], 10);
  const CudaGraph graph(scene.stream(), [&] {
    cuda_check(cuda::paged_attention(args, scene.stream().handle()), "paged_attention");
  });
  std::uint64_t seed = 10;
  for (const Sequences& step : steps) {
    scene.set_sequences(step, seed++);
    scene.args().longest_context = args.longest_context;
    scene.poison_out();
    graph.launch(scene.stream().handle());
    scene.compare();
    if (HasFatalFailure()) return;
    const auto replayed = scene.result();
    cuda_check(cuda::paged_attention(scene.args(), scene.stream().handle()), "paged_attention");
    EXPECT_TRUE(scene.result() == replayed) << "the graph gives other bits";
  }
}

TEST_F(CudaPagedAttentionOther, RefusesWhatMeansNothing) {
  AttentionCase c{4, 2, 64};
  c.sequences = {{1, 3000}, {5, 5}};
  AttentionScene scene(c, 11);
  const auto refused = [&](auto change) {
    cuda::PagedAttentionArgs args = scene.args();
    change(args);
    return cuda::paged_attention(args, scene.stream().handle()) != 0;
  };
  EXPECT_GT(scene.args().workspace_bytes, 0);
  EXPECT_FALSE(refused([](auto&) {}));
  EXPECT_TRUE(refused([](auto& a) { a.head_dim = 96; }));
  EXPECT_TRUE(refused([](auto& a) { a.heads = 5; }));
  EXPECT_TRUE(refused([](auto& a) { a.heads = 34; }));
  EXPECT_TRUE(refused([](auto& a) { a.cache.page_size = 24; }));
  EXPECT_TRUE(refused([](auto& a) { a.cache.dtype = DType::kI8; }));
  EXPECT_TRUE(refused([](auto& a) { a.scale = 0.0f; }));
  EXPECT_TRUE(refused([](auto& a) { a.ldq = 255; }));
  EXPECT_TRUE(refused([](auto& a) { a.q = static_cast<const std::byte*>(a.q) + 2; }));
  EXPECT_TRUE(refused([](auto& a) { a.workspace_bytes -= 1; }));
  EXPECT_TRUE(refused([](auto& a) { a.longest_context = 100000; }));
  EXPECT_TRUE(refused([](auto& a) { a.block_tables = nullptr; }));
  EXPECT_FALSE(refused([](auto& a) { a.m = 0; }));
  EXPECT_FALSE(refused([](auto& a) { a.sequences = 0; }));
  scene.stream().synchronize();
}

}  // namespace
}  // namespace slidesparse
