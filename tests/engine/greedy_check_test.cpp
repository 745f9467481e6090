// What stands between a wrong model and a figure.
#include "engine/greedy_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

#include "core/dtype_words.h"
#include "core/numeric.h"
#include "engine/bench_model.h"
#include "io/json.h"
#include "model/model_test_tools.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using testing::HasSubstr;

constexpr std::int64_t kPositions = GreedyReference::kPrompt + GreedyReference::kNew - 1;

std::shared_ptr<const GreedyReference> reference_of(const Model& model, std::uint64_t seed = 1) {
  return std::make_shared<const GreedyReference>(model, seed);
}

TEST(GreedyReference, ComesBackFromAFile) {
  const test::ScratchDirectory scratch("greedy");
  const std::filesystem::path file = scratch.path() / "reference";
  EXPECT_FALSE(GreedyReference::load(file));
  const GreedyReference reference(Model::load(test::golden("llama")), 5);
  reference.save(file);
  const auto back = GreedyReference::load(file);
  ASSERT_TRUE(back);
  ASSERT_EQ(back->positions(), reference.positions());
  for (std::int64_t s = 0; s < GreedyReference::kSequences; ++s) {
    for (std::int64_t i = 0; i < reference.positions(); ++i) {
      EXPECT_EQ(back->token(s, i), reference.token(s, i));
      EXPECT_EQ(back->greedy(s, i), reference.greedy(s, i));
      for (const std::int32_t token : {0, 77, 127})
        EXPECT_EQ(back->gap(s, i, token), reference.gap(s, i, token));
    }
  }
  // Whatever else is there is none.
  const auto size = std::filesystem::file_size(file);
  for (const std::uintmax_t left : {size - 1, std::uintmax_t{24}, std::uintmax_t{23}, std::uintmax_t{0}}) {
    std::filesystem::resize_file(file, left);
    EXPECT_FALSE(GreedyReference::load(file)) << left;
  }
}

BenchModelOptions options_of(BenchPhase phase, std::vector<std::int64_t> m) {
  BenchModelOptions options;
  options.phase = phase;
  options.m = std::move(m);
  options.warmup = 0;
  options.runs = 1;
  options.steps = 9;
  return options;
}

TEST(GreedyReference, IsWhatTheModelSays) {
  const Model model = Model::load(test::golden("llama"));
  const GreedyReference reference(model, 5);
  ASSERT_EQ(reference.positions(), kPositions);
  for (std::int64_t s = 0; s < GreedyReference::kSequences; ++s) {
    std::vector<std::int32_t> tokens;
    for (std::int64_t i = 0; i < kPositions; ++i) tokens.push_back(reference.token(s, i));
    const test::Rows logits = test::run_whole(model, tokens);
    for (std::int64_t i = 0; i < kPositions; ++i) {
      const std::vector<float>& row = logits[static_cast<std::size_t>(i)];
      const auto best = static_cast<std::int32_t>(std::ranges::max_element(row) - row.begin());
      EXPECT_EQ(reference.greedy(s, i), best) << s << " " << i;
      if (i + 1 >= GreedyReference::kPrompt && i + 1 < kPositions) {
        EXPECT_EQ(reference.token(s, i + 1), best) << s << " " << i;
      }
      EXPECT_EQ(reference.gap(s, i, best), 0);
      const auto other = static_cast<std::int32_t>((best + 7) % 128);
      double mean = 0, squares = 0;
      for (const float value : row) mean += value / 128.0;
      for (const float value : row) squares += (value - mean) * (value - mean) / 128;
      EXPECT_NEAR(
          reference.gap(s, i, other),
          (row[static_cast<std::size_t>(best)] - row[static_cast<std::size_t>(other)]) / std::sqrt(squares),
          1e-3);
      EXPECT_EQ(reference.gap(s, i, -1), std::numeric_limits<double>::infinity());
      EXPECT_EQ(reference.gap(s, i, 128), std::numeric_limits<double>::infinity());
    }
  }
  // Others of another seed; sequences count on.
  EXPECT_NE(GreedyReference(model, 6).token(0, 0) * 128 + GreedyReference(model, 6).token(0, 1),
            reference.token(0, 0) * 128 + reference.token(0, 1));
  EXPECT_EQ(reference.token(GreedyReference::kSequences + 1, 3), reference.token(1, 3));
}

// Keys and values in 8 bits are rounded ones, and nothing else changes.
TEST(GreedyReference, RoundsKeysAndValuesAsAnFp8CacheDoes) {
  const Model model = Model::load(test::golden("llama"));
  const GreedyReference plain(model, 5), rounded(model, 5, DType::kF8E4M3);
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < GreedyReference::kPrompt; ++i) tokens.push_back(rounded.token(1, i));
  KvCacheKind kind;
  kind.rounded = true;
  const KvCache cache(model.config(), 1, 32, {}, kind);
  const test::Rows logits = test::run_step(model, cache, {{tokens, 0, test::pages_from(0, 1)}});
  double moved = 0;
  for (std::int64_t i = 0; i < GreedyReference::kPrompt; ++i) {
    const std::vector<float>& row = logits[static_cast<std::size_t>(i)];
    EXPECT_EQ(rounded.greedy(1, i), static_cast<std::int32_t>(std::ranges::max_element(row) - row.begin()));
    for (std::int32_t token = 0; token < 128; ++token)
      moved = std::max(moved, std::abs(rounded.gap(1, i, token) - plain.gap(1, i, token)));
  }
  EXPECT_GT(moved, 1e-4);
  EXPECT_LT(moved, 1.0);
  const KvPages pages = cache.layer(0);
  for (std::int64_t i = 0; i < GreedyReference::kPrompt * pages.keys.dim(2) * pages.keys.dim(3); ++i) {
    for (const TensorView* view : {&pages.keys, &pages.values}) {
      const float value = bf16_to_float(view->as<std::uint16_t>()[i]);
      ASSERT_EQ(e4m3_to_float(float_to_e4m3(value)), value) << i;
    }
  }
}

// Another token is an error only beyond what rounding may do.
TEST(GreedyCheck, ATieMayFallEitherWay) {
  const GreedyReference reference(Model::load(test::golden("qwen2")), 1);
  std::int32_t second = -1;
  double gap = std::numeric_limits<double>::infinity();
  for (std::int32_t token = 0; token < 128; ++token) {
    if (token == reference.greedy(2, 7) || reference.gap(2, 7, token) >= gap) continue;
    second = token;
    gap = reference.gap(2, 7, token);
  }
  ASSERT_GT(gap, 0);
  GreedyCheck within;
  within.allowed = 1.01 * gap;
  within.compare(reference, 2, 7, second);
  within.compare(reference, 2, 7, reference.greedy(2, 7));
  EXPECT_EQ(within.compared, 2);
  EXPECT_EQ(within.differing, 1);
  EXPECT_EQ(within.wrong, 0);
  EXPECT_DOUBLE_EQ(within.worst_gap, gap);
  EXPECT_EQ(within.words(), "ok");
  GreedyCheck beyond;
  beyond.allowed = 0.99 * gap;
  beyond.compare(reference, 2, 7, second);
  beyond.compare(reference, 3, 0, -1);
  EXPECT_EQ(beyond.wrong, 2);
  EXPECT_THAT(beyond.words(),
              testing::AllOf(HasSubstr("wrong result: sequence 2 drew token"), HasSubstr("instead of"),
                             HasSubstr("behind 8 tokens"), HasSubstr("2 of 2 greedy outputs are wrong")));
}

TEST(GreedyCheck, AnythingInFp8MayBeFurtherOff) {
  ModelSummary summary;
  for (const char* dtype : {"int8", "bf16"}) {
    summary.dtype = dtype;
    EXPECT_EQ(greedy_tolerance(summary, 16, DType::kBF16, DType::kBF16), 0.5);
    EXPECT_EQ(greedy_tolerance(summary, 16, DType::kF8E4M3, DType::kBF16), 1.0);
    EXPECT_EQ(greedy_tolerance(summary, 16, DType::kI8, DType::kF8E4M3), 1.0);
    EXPECT_EQ(greedy_tolerance(summary, 2, DType::kBF16, DType::kBF16), 0.5);
    EXPECT_EQ(greedy_tolerance(summary, 64, DType::kBF16, DType::kBF16), 1.0);
  }
  summary.dtype = "fp8";
  EXPECT_EQ(greedy_tolerance(summary, 16, DType::kBF16, DType::kBF16), 1.0);
  EXPECT_NEAR(greedy_tolerance(summary, 48, DType::kBF16, DType::kBF16), 1.732, 1e-3);
}

// The same weights by other kernels in other batches: every sequence and step of decode is compared, one
// token of every prompt of prefill.
TEST(BenchCheck, RightOutputsHaveFigures) {
  ModelOptions plain;
  plain.linear.backends = {"reference"};
  for (const char* family : {"llama", "qwen2", "qwen3"}) {
    const Model model = Model::load(test::golden(family)), loops = Model::load(test::golden(family), plain);
    const std::vector<BenchSubject> subjects{{"plain", &loops, {}, reference_of(model)}};
    std::vector<std::int64_t> compared;
    for (const BenchPhase phase : {BenchPhase::kPrefill, BenchPhase::kDecode}) {
      for (const BenchModelRow& row : bench_model(subjects, options_of(phase, {1, 6, 40}))) {
        EXPECT_EQ(row.check, "ok") << family << " " << row.m;
        EXPECT_LT(row.greedy.worst_gap, 0.1);
        EXPECT_GT(row.tokens_per_second, 0);
        compared.push_back(row.greedy.compared);
      }
    }
    EXPECT_THAT(compared, testing::ElementsAre(1, 1, 1, 8, 48, 320));
  }
  const Model model = Model::load(test::golden("llama"));
  const BenchSubject unknown{"x", &model};
  EXPECT_EQ(bench_model({&unknown, 1}, options_of(BenchPhase::kDecode, {1})).front().check, "not compared");
}

// Prompts and runs that are shorter than the reference's.
TEST(BenchCheck, ShortRunsAreComparedAsFarAsTheyGo) {
  const Model model = Model::load(test::golden("llama"));
  const BenchSubject subject{"x", &model, {}, reference_of(model)};
  BenchModelOptions options = options_of(BenchPhase::kDecode, {5});
  options.prompt = 3;
  options.steps = 2;
  EXPECT_EQ(bench_model({&subject, 1}, options).front().greedy.compared, 5 + 2 * 5);
  options.prompt = 200;  // only its beginning is compared
  options.steps = 30;
  const BenchModelRow row = bench_model({&subject, 1}, options).front();
  EXPECT_EQ(row.greedy.compared, 5 + 7 * 5);
  EXPECT_EQ(row.check, "ok");
}

// llama's golden model with the rows of one linear in another order, as a kernel with a wrong tile would have
// it.
Model corrupted(const test::ScratchDirectory& scratch) {
  const test::TensorFile file(test::golden("llama") / "model.safetensors");
  std::vector<test::NewTensor> tensors;
  bool found = false;
  for (const auto& [name, view] : file.all()) {
    const auto* const bytes = view.as<const std::byte>();
    test::NewTensor tensor{name,
                           view.dtype,
                           {view.shape.dims().begin(), view.shape.dims().end()},
                           {bytes, bytes + view.byte_size()}};
    if (name == "model.layers.1.mlp.down_proj.weight") {
      found = true;
      std::rotate(tensor.bytes.begin(), tensor.bytes.begin() + view.byte_size() / 3, tensor.bytes.end());
    }
    tensors.push_back(std::move(tensor));
  }
  EXPECT_TRUE(found);
  test::write_model_directory(scratch.path(), read_text_file(test::golden("llama") / "config.json"), tensors);
  return Model::load(scratch.path());
}

TEST(BenchCheck, ACorruptedWeightHasNoFigure) {
  const test::ScratchDirectory scratch("slidesparse_corrupted_test");
  const Model good = Model::load(test::golden("llama")), bad = corrupted(scratch);
  const auto reference = reference_of(good);
  const std::vector<BenchSubject> subjects{{"bad", &bad, {}, reference}, {"good", &good, {}, reference}};
  for (const BenchPhase phase : {BenchPhase::kPrefill, BenchPhase::kDecode}) {
    BenchModelOptions options = options_of(phase, {12});
    options.min_seconds = 0.01;
    const auto rows = bench_model(subjects, options);
    ASSERT_EQ(rows.size(), 2u);
    EXPECT_GT(rows[0].greedy.wrong, 0);
    EXPECT_THAT(rows[0].check, HasSubstr("wrong result: sequence"));
    EXPECT_EQ(rows[0].seconds.count, 0);
    EXPECT_EQ(rows[0].tokens_per_second, 0);
    EXPECT_EQ(rows[1].check, "ok");
    EXPECT_GT(rows[1].tokens_per_second, 0);
  }
}

TEST(BenchCheck, ASpoiledCheckFails) {
  const Model model = Model::load(test::golden("qwen3"));
  const BenchSubject subject{"x", &model, {}, reference_of(model)};
  for (const BenchPhase phase : {BenchPhase::kPrefill, BenchPhase::kDecode}) {
    BenchModelOptions options = options_of(phase, {3});
    options.spoil_check = true;
    const BenchModelRow row = bench_model({&subject, 1}, options).front();
    EXPECT_EQ(row.greedy.differing, row.greedy.compared);
    EXPECT_GT(row.greedy.wrong, 0);
    EXPECT_EQ(row.tokens_per_second, 0);
  }
}

}  // namespace
}  // namespace slidesparse
