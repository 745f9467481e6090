// Paged attention against double arithmetic, on every instruction set.
#include "ops/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/cpu.h"
#include "core/numeric.h"
#include "core/random.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using Bits = std::vector<std::uint16_t>;

struct Case {
  std::int64_t heads, kv_heads, head_dim, page_size;
  std::vector<std::int64_t> tokens;    // new ones, a sequence
  std::vector<std::int64_t> contexts;  // with them
};

// A batch with its cache, filled by write_kv; pages are handed out in no order.
struct Scene {
  Case c;
  std::vector<std::int32_t> offsets{0}, contexts, tables;
  std::int64_t max_blocks = 0, pages = 0;
  Bits keys, values, q, k, v, out;
  KvPages cache;
  AttentionBatch batch;
  std::vector<Bits> all_k, all_v;  // [context, kv_heads, head_dim] of every sequence

  explicit Scene(const Case& wanted) : c(wanted) {
    const std::int64_t row = c.kv_heads * c.head_dim;
    for (std::size_t s = 0; s < c.tokens.size(); ++s) {
      offsets.push_back(offsets.back() + static_cast<std::int32_t>(c.tokens[s]));
      contexts.push_back(static_cast<std::int32_t>(c.contexts[s]));
      max_blocks = std::max(max_blocks, ceil_div(c.contexts[s], c.page_size));
    }
    const auto sequences = static_cast<std::int64_t>(c.tokens.size());
    pages = sequences * max_blocks + 3;
    for (std::int64_t i = 0; i < sequences * max_blocks; ++i)
      tables.push_back(static_cast<std::int32_t>((i * 5 + 2) % pages));
    if (pages % 5 == 0) {
      for (std::size_t i = 0; i < tables.size(); ++i)
        tables[i] = static_cast<std::int32_t>(pages - 1 - static_cast<std::int64_t>(i));
    }
    // What nobody wrote is NaN: whoever reads it is found out.
    keys.assign(static_cast<std::size_t>(pages * c.page_size * row), 0x7fc0);
    values = keys;
    const Shape shape{pages, c.page_size, c.kv_heads, c.head_dim};
    cache = {TensorView::contiguous(static_cast<void*>(keys.data()), DType::kBF16, shape),
             TensorView::contiguous(static_cast<void*>(values.data()), DType::kBF16, shape)};
    batch = {offsets, contexts, tables, max_blocks};
    for (std::int64_t s = 0; s < sequences; ++s) {
      const auto i = static_cast<std::size_t>(s);
      all_k.push_back(random_bits_of(c.contexts[i] * row, 100 + static_cast<std::uint64_t>(s)));
      all_v.push_back(random_bits_of(c.contexts[i] * row, 200 + static_cast<std::uint64_t>(s)));
      for (std::int64_t t = 0; t < c.contexts[i] - c.tokens[i]; ++t) {  // earlier steps
        const std::int64_t page = tables[static_cast<std::size_t>(s * max_blocks + t / c.page_size)];
        const std::int64_t to = (page * c.page_size + t % c.page_size) * row;
        std::copy_n(all_k[i].begin() + t * row, row, keys.begin() + to);
        std::copy_n(all_v[i].begin() + t * row, row, values.begin() + to);
      }
      k.insert(k.end(), all_k[i].end() - c.tokens[i] * row, all_k[i].end());
      v.insert(v.end(), all_v[i].end() - c.tokens[i] * row, all_v[i].end());
    }
    q = random_bits_of(offsets.back() * c.heads * c.head_dim, 300);
    out.assign(q.size(), 0x7fc0);
  }

  static Bits random_bits_of(std::int64_t count, std::uint64_t seed) {
    Bits bits(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = float_to_bf16(1.5f * random_normal(seed, i));
    return bits;
  }

  void run(Context& context) {
    const std::int64_t m = offsets.back();
    const auto tensor = [&](Bits& bits, std::int64_t heads) {
      return TensorView::contiguous(static_cast<void*>(bits.data()), DType::kBF16, {m, heads, c.head_dim});
    };
    write_kv(context, batch, tensor(k, c.kv_heads), tensor(v, c.kv_heads), cache);
    context.arena->reserve(
        static_cast<std::size_t>(paged_attention_workspace(batch, c.kv_heads, c.head_dim)));
    paged_attention(context, batch, tensor(q, c.heads), cache, scale(), tensor(out, c.heads));
  }
  double scale() const { return 1.0 / std::sqrt(static_cast<double>(c.head_dim)); }

  // Largest |got - exact| over the largest |value| of the token's sequence.
  double error() const {
    double worst = 0;
    for (std::size_t s = 0; s < c.tokens.size(); ++s) {
      for (std::int64_t i = 0; i < c.tokens[s]; ++i) {
        const std::int64_t visible = c.contexts[s] - c.tokens[s] + i + 1;
        for (std::int64_t h = 0; h < c.heads; ++h)
          worst = std::max(worst, head_error(s, offsets[s] + i, h, visible));
      }
    }
    return worst;
  }

  double head_error(std::size_t s, std::int64_t token, std::int64_t h, std::int64_t visible) const {
    const std::int64_t kv = h / (c.heads / c.kv_heads);
    const auto at = [&](const Bits& bits, std::int64_t t, std::int64_t j) {
      return static_cast<double>(
          bf16_to_float(bits[static_cast<std::size_t>((t * c.kv_heads + kv) * c.head_dim + j)]));
    };
    const std::int64_t base = (token * c.heads + h) * c.head_dim;
    std::vector<double> weight(static_cast<std::size_t>(visible));
    double highest = -1e300, sum = 0;
    for (std::int64_t t = 0; t < visible; ++t) {
      double dot = 0;
      for (std::int64_t j = 0; j < c.head_dim; ++j)
        dot += bf16_to_float(q[static_cast<std::size_t>(base + j)]) * at(all_k[s], t, j);
      weight[static_cast<std::size_t>(t)] = dot * scale();
      highest = std::max(highest, dot * scale());
    }
    for (double& w : weight) sum += w = std::exp(w - highest);
    double worst = 0;
    for (std::int64_t j = 0; j < c.head_dim; ++j) {
      double exact = 0;
      for (std::int64_t t = 0; t < visible; ++t)
        exact += weight[static_cast<std::size_t>(t)] / sum * at(all_v[s], t, j);
      const double got = bf16_to_float(out[static_cast<std::size_t>(base + j)]);
      worst = std::isnan(got) ? 1e9 : std::max(worst, std::abs(got - exact));
    }
    return worst;
  }
};

class Attention : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (GetParam() > detected_isa()) GTEST_SKIP() << "this processor has less";
    force_isa(GetParam());
    context_.arena = &arena_;
  }
  void TearDown() override { force_isa(std::nullopt); }
  Arena arena_;
  Context context_;
};

// Values are at most about 5; weights rounded to BF16 (2^-8 relative at most, mostly less) and the result rounded to BF16.
constexpr double kTolerance = 5.2 * 3.0 / 512.0;

TEST_P(Attention, MatchesDoubleArithmetic) {
  const std::vector<Case> cases = {
      {1, 1, 2, 1, {1}, {1}},
      {1, 1, 16, 4, {7}, {7}},
      {3, 1, 64, 16, {64}, {64}},
      {9, 3, 64, 16, {65}, {65}},
      {4, 2, 48, 5, {130}, {130}},
      {8, 8, 80, 16, {50}, {50}},
      {2, 1, 128, 64, {49, 1, 3}, {49, 33, 200}},       // prefill, decode, a chunk in the middle
      {12, 2, 32, 16, {1, 1, 1, 1}, {1, 16, 17, 333}},  // decode only, odd lengths
      {5, 1, 34, 3, {1, 48, 97}, {20, 48, 97}},
      {3, 3, 18, 7, {0, 2, 1}, {5, 70, 71}},  // a sequence without new tokens
      {16, 2, 256, 16, {1, 20}, {40, 90}},
  };
  for (const Case& c : cases) {
    Scene scene(c);
    scene.run(context_);
    EXPECT_LT(scene.error(), kTolerance) << c.heads << " heads of " << c.head_dim;
  }
}

// A chunked prefill gives the very bits of a whole one, token by token too (as decoding does), and so does
// any company in the batch.
TEST_P(Attention, ChunksAndCompanyChangeNothing) {
  Scene whole({6, 2, 64, 16, {150}, {150}});
  whole.run(context_);
  for (const std::int64_t chunk : {1, 2, 48, 61}) {
    Bits got;
    for (std::int64_t begin = 0; begin < 150; begin += chunk) {
      const std::int64_t count = std::min(chunk, 150 - begin);
      Scene part({6, 2, 64, 16, {count, 5}, {begin + count, 9}});
      // The same sequence as in `whole`, cut at this chunk's end.
      const std::int64_t row = 2 * 64;
      part.all_k[0].assign(whole.all_k[0].begin(), whole.all_k[0].begin() + (begin + count) * row);
      part.all_v[0].assign(whole.all_v[0].begin(), whole.all_v[0].begin() + (begin + count) * row);
      for (std::int64_t t = 0; t < begin; ++t) {
        const std::int64_t page = part.tables[static_cast<std::size_t>(t / 16)];
        std::copy_n(part.all_k[0].begin() + t * row, row, part.keys.begin() + (page * 16 + t % 16) * row);
        std::copy_n(part.all_v[0].begin() + t * row, row, part.values.begin() + (page * 16 + t % 16) * row);
      }
      std::copy_n(part.all_k[0].begin() + begin * row, count * row, part.k.begin());
      std::copy_n(part.all_v[0].begin() + begin * row, count * row, part.v.begin());
      std::copy_n(whole.q.begin() + begin * 6 * 64, count * 6 * 64, part.q.begin());
      part.run(context_);
      got.insert(got.end(), part.out.begin(), part.out.begin() + count * 6 * 64);
    }
    EXPECT_EQ(got, Bits(whole.out.begin(), whole.out.begin() + static_cast<std::ptrdiff_t>(got.size())))
        << chunk;
    EXPECT_GE(got.size(), 100u * 6u * 64u);
  }
}

TEST_P(Attention, RefusesPagesAndContextsThatAreNotThere) {
  const Case c{2, 1, 16, 4, {3}, {9}};
  const auto broken = [&](const std::function<void(Scene&)>& change) {
    Scene scene(c);
    change(scene);
    scene.batch = {scene.offsets, scene.contexts, scene.tables, scene.max_blocks};
    EXPECT_THROW(scene.run(context_), Error);
  };
  broken([](Scene& s) { s.tables[1] = -1; });
  broken([](Scene& s) { s.tables[2] = static_cast<std::int32_t>(s.pages); });
  broken([](Scene& s) { s.contexts[0] = 13; });
  broken([](Scene& s) { s.contexts[0] = 2; });
  broken([](Scene& s) { s.offsets[0] = 1; });
}

INSTANTIATE_TEST_SUITE_P(Isas, Attention, testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512),
                         [](const auto& instance) { return std::string(isa_name(instance.param)); });

}  // namespace
}  // namespace slidesparse
