// A model on a card against the same model on the CPU.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/buffer.h"
#include "core/cuda/status.h"
#include "core/random.h"
#include "gemm/backend.h"
#include "model/cuda_plan.h"
#include "model/model.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kPageSize = 16;

struct CudaModelCase {
  const char* name;
  Family family;
  DType dtype;
  const char* pattern;
  DType head;
  std::int64_t heads, kv_heads, head_dim;
  bool tied;
  Layout layout = Layout::kPacked;
  std::int64_t vocab = 1003;
};

ModelConfig config_of(const CudaModelCase& c) {
  ModelConfig config;
  config.family = c.family;
  config.hidden = 256;
  config.intermediate = 704;  // tails in groups of 10
  config.layers = 3;
  config.heads = c.heads;
  config.kv_heads = c.kv_heads;
  config.head_dim = c.head_dim;
  config.vocab = c.vocab;
  config.max_position = 512;
  config.tied_embeddings = c.tied;
  config.qkv_bias = c.family == Family::kQwen2;
  config.qk_norm = c.family == Family::kQwen3;
  return config;
}

// Of logits from the CPU's: what single codes of FP8 that fall on the other side of a rounding do, and of
// INT8 or BF16.
double limit_of(const CudaModelCase& c) {
  return c.dtype == DType::kF8E4M3 || c.head == DType::kF8E4M3 ? 0.05 : 0.02;
}

std::vector<std::int32_t> some_tokens(std::int64_t count, std::int64_t vocab, std::uint64_t seed) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<std::int32_t>(random_bits(seed, static_cast<std::uint64_t>(i)) %
                                               static_cast<std::uint64_t>(vocab)));
  }
  return tokens;
}

// Sequences that grow from step to step, on one model.
class Rollout {
 public:
  Rollout(const Model& model, std::int64_t sequences, std::int64_t blocks)
      : model_(model),
        blocks_(blocks),
        cache_(model.config(), sequences * blocks, kPageSize, model.device()),
        lengths_(static_cast<std::size_t>(sequences)) {
    context_.arena = &arena_;
  }

  // Feeds each sequence some tokens (maybe none); logits of the last of each that got any.
  std::vector<float> step(const std::vector<std::vector<std::int32_t>>& tokens) {
    std::vector<std::int32_t> ids, positions, offsets{0}, contexts, tables, wanted;
    for (std::size_t s = 0; s < tokens.size(); ++s) {
      for (const std::int32_t id : tokens[s]) {
        ids.push_back(id);
        positions.push_back(static_cast<std::int32_t>(lengths_[s]++));
      }
      offsets.push_back(static_cast<std::int32_t>(ids.size()));
      contexts.push_back(static_cast<std::int32_t>(lengths_[s]));
      // Pages of a sequence stand apart, the last one first.
      for (std::int64_t b = blocks_ - 1; b >= 0; --b)
        tables.push_back(static_cast<std::int32_t>(b * static_cast<std::int64_t>(tokens.size()) +
                                                   static_cast<std::int64_t>(s)));
      if (!tokens[s].empty()) wanted.push_back(offsets.back() - 1);
    }
    const Batch batch{ids, positions, offsets, contexts, tables, blocks_, wanted};
    std::vector<float> logits(wanted.size() * static_cast<std::size_t>(model_.config().vocab),
                              std::numeric_limits<float>::quiet_NaN());
    model_.forward(context_, batch, cache_,
                   TensorView::contiguous(static_cast<void*>(logits.data()), DType::kF32,
                                          {static_cast<std::int64_t>(wanted.size()), model_.config().vocab}));
    return logits;
  }

 private:
  const Model& model_;
  std::int64_t blocks_;
  KvCache cache_;
  std::vector<std::int64_t> lengths_;
  Arena arena_;
  Context context_;
};

// |a - b| / |b|.
double relative_distance(const std::vector<float>& a, const std::vector<float>& b) {
  double apart = 0, all = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    apart += std::pow(static_cast<double>(a[i]) - b[i], 2);
    all += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(apart / all);
}

class CudaModelTest : public testing::TestWithParam<CudaModelCase> {
 protected:
  void SetUp() override {
    if (!cuda_status().available) GTEST_SKIP() << cuda_status().reason;
    const bool fp8 = GetParam().dtype == DType::kF8E4M3 || GetParam().head == DType::kF8E4M3;
    if (fp8 && cuda_status().devices.front().compute_capability() < 89) GTEST_SKIP() << "no FP8 on this card";
    if (GetParam().layout == Layout::kSplit && !backend_named("native").available().ok)
      GTEST_SKIP() << backend_named("native").available().reason;
  }

  static Model make(DeviceKind device, WeightPolicy weights = WeightPolicy::kFastest,
                    AttentionChoice attention = AttentionChoice::kAuto) {
    const CudaModelCase& c = GetParam();
    ModelOptions options;
    options.device = device;
    options.weights = weights;
    options.attention = attention;
    return Model::random(config_of(c), c.dtype, Pattern::parse(c.pattern), c.head, 7, options, c.layout);
  }

  // Steps of new tokens by sequence: the logits of each are the CPU's, whoever computes the attention.
  static void check_rollout(const std::vector<std::vector<std::vector<std::int32_t>>>& steps) {
    const auto sequences = static_cast<std::int64_t>(steps.front().size());
    const double limit = limit_of(GetParam());
    const Model cpu = make(DeviceKind::kCpu);
    Rollout expected(cpu, sequences, 24);
    std::vector<std::vector<float>> logits;
    logits.reserve(steps.size());
    for (const auto& step : steps) logits.push_back(expected.step(step));
    for (const AttentionChoice attention : {AttentionChoice::kAuto, AttentionChoice::kOwn}) {
      const Model card = make(DeviceKind::kCuda, WeightPolicy::kFastest, attention);
      Rollout got(card, sequences, 24);
      for (std::size_t i = 0; i < steps.size(); ++i) {
        EXPECT_LT(relative_distance(got.step(steps[i]), logits[i]), limit)
            << card.summary().attention << ", step " << i;
      }
    }
  }
};

// Prompts of unequal lengths, then single tokens, then a mixed step with an idle sequence. Both sides round
// to BF16 at the same places but add in other orders: single roundings differ by 2^-8 relative, a quantised
// input by one code of 127 (INT8) or 2^-4 (FP8) where that moves it over a boundary. Measured on random
// models this stays well below the limits, while a wrong position, page, scale or head shows as 0.1 and more.
TEST_P(CudaModelTest, LogitsAreTheCpus) {
  const CudaModelCase& c = GetParam();
  const Model cpu = make(DeviceKind::kCpu);
  const Model card = make(DeviceKind::kCuda);
  EXPECT_EQ(card.summary().dtype, cpu.summary().dtype);
  EXPECT_EQ(card.summary().pattern, cpu.summary().pattern);
  EXPECT_EQ(card.summary().linear_bytes, cpu.summary().linear_bytes);
  Rollout a(cpu, 4, 24), b(card, 4, 24);
  const double limit = limit_of(c);
  const auto check = [&](const std::vector<std::vector<std::int32_t>>& tokens, const char* what) {
    const std::vector<float> expected = a.step(tokens), got = b.step(tokens);
    ASSERT_EQ(got.size(), expected.size());
    EXPECT_LT(relative_distance(got, expected), limit) << what;
  };
  const std::int64_t vocab = cpu.config().vocab;
  check({some_tokens(1, vocab, 1), some_tokens(130, vocab, 2), some_tokens(17, vocab, 3),
         some_tokens(64, vocab, 4)},
        "prompts");
  for (std::uint64_t i = 0; i < 3; ++i) {
    check({some_tokens(1, vocab, 10 + i), some_tokens(1, vocab, 20 + i), some_tokens(1, vocab, 30 + i),
           some_tokens(1, vocab, 40 + i)},
          "single tokens");
  }
  check({some_tokens(1, vocab, 50), {}, some_tokens(33, vocab, 51), some_tokens(1, vocab, 52)}, "mixed");
}

// The steps whose attention may be cuDNN's; what follows reads the keys and values that they left.
TEST_P(CudaModelTest, PromptsOfEqualLengthsAreTheCpus) {
  const std::int64_t vocab = config_of(GetParam()).vocab;
  check_rollout({{some_tokens(192, vocab, 61), some_tokens(192, vocab, 62)},
                 {some_tokens(1, vocab, 63), some_tokens(1, vocab, 64)}});
}

// The same of unequal ones, some of which are cuDNN's in one step; a single long one, too.
TEST_P(CudaModelTest, PromptsOfUnequalLengthsAreTheCpus) {
  const std::int64_t vocab = config_of(GetParam()).vocab;
  check_rollout({{some_tokens(301, vocab, 71), some_tokens(77, vocab, 72), some_tokens(130, vocab, 73)},
                 {some_tokens(1, vocab, 74), some_tokens(1, vocab, 75), some_tokens(9, vocab, 76)}});
  check_rollout({{some_tokens(333, vocab, 77)}});
}

TEST_P(CudaModelTest, TwiceTheSameBitsAndChunksAreTheWhole) {
  const Model card = make(DeviceKind::kCuda, WeightPolicy::kSmallest);
  const std::int64_t vocab = card.config().vocab;
  const std::vector<std::int32_t> prompt = some_tokens(100, vocab, 5);
  const std::vector<float> whole = Rollout(card, 1, 8).step({prompt});
  EXPECT_EQ(Rollout(card, 1, 8).step({prompt}), whole);
  Rollout chunks(card, 1, 8);
  chunks.step({{prompt.begin(), prompt.begin() + 37}});
  EXPECT_LT(relative_distance(chunks.step({{prompt.begin() + 37, prompt.end()}}), whole),
            limit_of(GetParam()));
}

TEST_P(CudaModelTest, BlocksOfLogitsAreAllLogits) {
  const Model card = make(DeviceKind::kCuda);
  const std::int64_t vocab = card.config().vocab;
  const std::vector<std::int32_t> ids = some_tokens(40, vocab, 9);
  std::vector<std::int32_t> positions, wanted;
  for (std::int32_t i = 0; i < 40; ++i) {
    positions.push_back(i);
    if (i % 3 != 1) wanted.push_back(i);
  }
  const std::vector<std::int32_t> offsets{0, 40}, contexts{40}, table{2, 0, 1};
  const Batch batch{ids, positions, offsets, contexts, table, 3, wanted};
  const KvCache cache(card.config(), 3, kPageSize, card.device());
  Arena arena;
  Context context;
  context.arena = &arena;
  std::vector<float> all(wanted.size() * static_cast<std::size_t>(vocab)), blocks;
  card.forward(context, batch, cache,
               TensorView::contiguous(static_cast<void*>(all.data()), DType::kF32,
                                      {static_cast<std::int64_t>(wanted.size()), vocab}));
  card.forward_blocks(context, batch, cache, [&](std::int64_t first, const TensorView& logits) {
    EXPECT_EQ(first * vocab, static_cast<std::int64_t>(blocks.size()));
    blocks.insert(blocks.end(), logits.as<float>(), logits.as<float>() + logits.shape.count());
  });
  EXPECT_EQ(blocks, all);
}

// A BF16 head, tied or not, that is quantised when the model is loaded: the same codes as the CPU's, on
// whatever backend runs them, and the embedding beside them as it was.
TEST(CudaModel, HeadsThatAreQuantisedWhenLoadedAreTheCpus) {
  if (!cuda_status().available) GTEST_SKIP() << cuda_status().reason;
  const std::vector<std::vector<std::int32_t>> prompts{some_tokens(70, 1000, 1), some_tokens(9, 1000, 2)},
      next{some_tokens(1, 1000, 3), some_tokens(1, 1000, 4)};
  for (const DType head : {DType::kI8, DType::kF8E4M3}) {
    if (head == DType::kF8E4M3 && cuda_status().devices.front().compute_capability() < 89) continue;
    for (const bool tied : {true, false}) {
      CudaModelCase c{"", Family::kLlama, DType::kI8, "6:8", head, 4, 2, 64, tied};
      c.vocab = 1024;  // which our own kernels can write, too
      const auto make = [&](DeviceKind device, const ModelOptions& asked) {
        ModelOptions options = asked;
        options.device = device;
        options.head = head;
        return Model::random(config_of(c), c.dtype, Pattern::parse(c.pattern), DType::kBF16, 7, options);
      };
      const Model cpu = make(DeviceKind::kCpu, {});
      Rollout expected(cpu, 2, 8);
      const std::vector<float> first = expected.step(prompts), second = expected.step(next);
      for (const char* backend :
           {"", "cublaslt", "native", "cusparselt"}) {  // the last one has no product for it
        ModelOptions asked;
        if (*backend != 0) {
          if (!backend_named(backend).available().ok) continue;
          asked.linear.backends = {backend};
        }
        for (const WeightPolicy weights : {WeightPolicy::kFastest, WeightPolicy::kSmallest}) {
          asked.weights = weights;
          const Model card = make(DeviceKind::kCuda, asked);
          EXPECT_EQ(card.summary().head_bytes, cpu.summary().head_bytes);
          EXPECT_EQ(card.linears_at(2, 2).back().dtype, head);
          EXPECT_EQ(card.linears_at(2, 2).back().out, DType::kF32);
          if (std::string_view(backend) == "native") {
            EXPECT_EQ(card.linears_at(2, 2).back().choice.backend->name(), "native");
          }
          Rollout got(card, 2, 8);
          EXPECT_LT(relative_distance(got.step(prompts), first), limit_of(c)) << backend << tied;
          EXPECT_LT(relative_distance(got.step(next), second), limit_of(c)) << backend << tied;
        }
      }
    }
  }
}

// Needs no card: nothing writes logits of that type anywhere.
TEST(CudaModel, AHeadThatNothingRunsIsOneClearError) {
  GemmDesc desc;
  desc.n = 1000;
  desc.k = 256;
  desc.x = desc.w = DType::kF8E4M3;
  desc.out = DType::kI8;
  desc.device = {DeviceKind::kCuda, 0};
  for (const std::vector<std::string>& backends :
       {std::vector<std::string>{}, std::vector<std::string>{"cusparselt"}}) {
    try {
      KernelSet({{backends}, WeightPolicy::kFastest, {1}}).of_head(desc);
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
      EXPECT_THAT(error.what(), testing::AllOf(testing::StartsWith("the head in fp8: nothing can multiply"),
                                               testing::HasSubstr("N=1000"),
                                               testing::HasSubstr("; --head bf16 runs wherever")));
    }
  }
}

TEST(CudaModel, HeadsThatAttentionDoesNotKnowAreRefused) {
  if (!cuda_status().available) GTEST_SKIP() << cuda_status().reason;
  ModelConfig config = config_of({"", Family::kLlama, DType::kI8, "dense", DType::kI8, 4, 2, 32, true});
  ModelOptions options;
  options.device = DeviceKind::kCuda;
  try {
    Model::random(config, DType::kI8, Pattern(), DType::kI8, 1, options);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("4 heads of 32"), std::string::npos) << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, CudaModelTest,
    testing::Values(
        CudaModelCase{"llama_bf16", Family::kLlama, DType::kBF16, "dense", DType::kBF16, 4, 2, 64, true},
        CudaModelCase{"llama_int8_6of8", Family::kLlama, DType::kI8, "6:8", DType::kBF16, 4, 1, 64, true},
        CudaModelCase{"llama_fp8_2of4", Family::kLlama, DType::kF8E4M3, "2:4", DType::kBF16, 8, 8, 64, false},
        CudaModelCase{"qwen2_int8_dense", Family::kQwen2, DType::kI8, "dense", DType::kI8, 4, 2, 128, false},
        CudaModelCase{"qwen2_fp8_8of10", Family::kQwen2, DType::kF8E4M3, "8:10", DType::kBF16, 7, 1, 64,
                      false},
        CudaModelCase{"llama_fp8_6of8_split", Family::kLlama, DType::kF8E4M3, "6:8", DType::kBF16, 4, 2, 64,
                      false, Layout::kSplit},
        CudaModelCase{"qwen2_int8_8of10_split", Family::kQwen2, DType::kI8, "8:10", DType::kI8, 4, 2, 128,
                      true, Layout::kSplit},
        CudaModelCase{"llama_int8_6of8_head_fp8", Family::kLlama, DType::kI8, "6:8", DType::kF8E4M3, 4, 2, 64,
                      true},
        CudaModelCase{"qwen2_fp8_6of8_split_head_fp8", Family::kQwen2, DType::kF8E4M3, "6:8", DType::kF8E4M3,
                      4, 2, 128, false, Layout::kSplit, 1024},
        CudaModelCase{"llama_bf16_head_int8", Family::kLlama, DType::kBF16, "dense", DType::kI8, 4, 2, 64,
                      true, Layout::kPacked, 1024},
        CudaModelCase{"llama_bf16_6of8_split", Family::kLlama, DType::kBF16, "6:8", DType::kBF16, 4, 2, 64,
                      true, Layout::kSplit},
        CudaModelCase{"qwen2_bf16_4of6", Family::kQwen2, DType::kBF16, "4:6", DType::kBF16, 4, 2, 128, false},
        CudaModelCase{"qwen3_int8_4of6", Family::kQwen3, DType::kI8, "4:6", DType::kBF16, 4, 2, 128, true}),
    [](const auto& which) { return which.param.name; });

}  // namespace
}  // namespace slidesparse
