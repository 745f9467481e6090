#include "kernels/cuda/sample.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "core/random.h"
#include "engine/sampler.h"
#include "kernels/cuda/device_test.h"
#include "kernels/cuda/fill.h"
#include "kernels/cuda/sample_case.h"

namespace slidesparse {
namespace {

class CudaSample : public DeviceTest {
 protected:
  // `rows` rows of a kind of logits, with options in rotation from `from`.
  static SampleCase make_case(std::string_view kind, std::int64_t vocab, std::int64_t rows, std::int64_t from,
                              bool with_seen) {
    SampleCase c;
    c.vocab = vocab;
    c.ld = vocab + from % 4;
    c.with_seen = with_seen;
    c.logits = make_logits(kind, rows * c.ld, static_cast<std::uint64_t>(from + vocab));
    c.seen.resize(static_cast<std::size_t>(rows * seen_words(vocab)));
    for (std::size_t i = 0; i < c.seen.size(); ++i)
      c.seen[i] = static_cast<std::uint32_t>(random_bits(3, i) & random_bits(4, i));
    for (std::int64_t i = 0; i < rows; ++i) {
      c.row.push_back(some_row(from + i, with_seen));
      c.row.back().slot = static_cast<std::int32_t>(rows - 1 - i);
    }
    return c;
  }
};

TEST_F(CudaSample, EqualsTheCpu) {
  const CudaStream stream;
  std::int64_t turn = 0;
  for (const std::string_view kind : logit_kinds()) {
    SCOPED_TRACE(kind);
    for (const std::int64_t vocab : {1, 2, 31, 33, 1023, 16385, 49152, 128256, 151936}) {
      const std::uint64_t chance = random_bits(1, static_cast<std::uint64_t>(turn));
      const std::int64_t rows = chance % 3 == 0 ? 1 : vocab > 100000 ? 7 : 15;
      SampleCase c = make_case(kind, vocab, rows, 7 * turn, (chance >> 8) % 2 == 0);
      c.with_logprob = (chance >> 16) % 3 != 0;
      c.top_n = std::vector<int>{0, 1, 20}[(chance >> 24) % 3];
      c.offset = static_cast<std::int64_t>((chance >> 32) % 4 * 4);
      check_sample(c, stream);
      if (HasFailure()) return;
      ++turn;
    }
  }
}

// One token more or less moves what is drawn nearly always when all that stay weigh about the same.
TEST_F(CudaSample, TopKAndTopPCutAtTheVeryToken) {
  const CudaStream stream;
  for (const std::string_view kind : {"equal", "normal", "dominant"}) {
    SCOPED_TRACE(kind);
    SampleCase c = make_case(kind, 5000, 120, 0, false);
    for (std::size_t i = 0; i < c.row.size(); ++i) {
      c.row[i] = {
          .temperature = 5, .top_k = i < 60 ? static_cast<std::int32_t>(2 + i) : 0, .seed = i, .index = 1};
      if (i >= 60) c.row[i].top_p = static_cast<float>(i - 59) * 2e-3f;
    }
    check_sample(c, stream);
    if (HasFailure()) return;
  }
}

TEST_F(CudaSample, ManyRows) {
  const CudaStream stream;
  for (const std::int64_t rows : {3, 64, 257}) {
    for (const std::string_view kind : {"normal", "ties", "inf"}) {
      SCOPED_TRACE(kind);
      SampleCase c = make_case(kind, rows == 257 ? 5000 : 49152, rows, rows, true);
      c.with_logprob = true;
      c.top_n = 5;
      check_sample(c, stream);
      if (HasFailure()) return;
    }
  }
}

TEST_F(CudaSample, GreedyRowsAloneTakeTheFastPath) {
  const CudaStream stream;
  for (const std::string_view kind : logit_kinds()) {
    SCOPED_TRACE(kind);
    for (const std::int64_t vocab : {1, 31, 49152, 151936}) {
      SampleCase c = make_case(kind, vocab, vocab > 100000 ? 5 : 64, 1, true);
      for (SampleRow& row : c.row) {
        row.temperature = row.top_k == 1 ? 1.0f : 0.0f;
        row.top_p = 0.5f;  // means nothing here
      }
      c.all_greedy = true;
      check_sample(c, stream);
      c.with_seen = false;
      c.with_logprob = true;
      check_sample(c, stream);
      if (HasFailure()) return;
    }
  }
}

// A request's token depends on its own row alone.
TEST_F(CudaSample, TheBatchChangesNothing) {
  const CudaStream stream;
  constexpr std::int64_t kVocab = 3001;
  constexpr std::int64_t kRows = 40;
  const std::vector<float> logits = make_logits("normal", kVocab, 11);
  std::vector<float> same;
  std::vector<SampleRow> rows;
  for (std::int64_t r = 0; r < kRows; ++r) {
    same.insert(same.end(), logits.begin(), logits.end());
    SampleRow row{.temperature = 1, .top_p = 0.95f, .top_k = 300};
    row.seed = 5;
    row.index = static_cast<std::uint64_t>(r / 2);
    rows.push_back(row);
  }
  OnDevice d_logits(same, stream);
  OnDevice d_rows(rows, stream);
  OnDevice workspace(poison<std::uint8_t>(cuda::sample_workspace_bytes(kRows, kVocab)), stream);
  OnDevice token(poison<std::int32_t>(kRows), stream);
  cuda::SampleArgs args;
  args.logits = d_logits.data();
  args.ld = kVocab;
  args.vocab = kVocab;
  args.row = d_rows.data();
  args.token = token.data();
  args.workspace = workspace.data();
  args.rows = kRows;
  cuda_check(cuda::sample(args, stream.handle()), "sample");
  const auto together = on_host(token.data(), kRows, stream);
  for (std::size_t r = 0; r + 1 < kRows; r += 2) EXPECT_EQ(together[r], together[r + 1]) << r;
  EXPECT_GT(std::set<std::int32_t>(together.begin(), together.end()).size(), 10u);
  args.rows = 1;
  for (std::int64_t r = 0; r < kRows; ++r) {
    args.row = d_rows.data() + r;
    cuda_check(cuda::sample(args, stream.handle()), "sample");
    EXPECT_EQ(on_host(token.data(), 1, stream)[0], together[static_cast<std::size_t>(r)]) << r;
  }
}

TEST_F(CudaSample, SeenTokensAreEntered) {
  const CudaStream stream;
  constexpr std::int64_t kVocab = 1000;
  constexpr std::int64_t kSlots = 4;
  const std::int64_t words = seen_words(kVocab);
  const std::vector<std::int32_t> tokens{0, 31, 32, 999, 31, -1, 1000, 2147483647, 500};
  const std::vector<std::int64_t> offsets{0, 4, 4, 9};
  const std::vector<std::int32_t> slots{2, 0, 3};
  for (const bool keep : {false, true}) {
    std::vector<std::uint32_t> want(static_cast<std::size_t>(kSlots * words));
    for (std::size_t i = 0; i < want.size(); ++i) want[i] = static_cast<std::uint32_t>(random_bits(1, i));
    OnDevice seen(want, stream);
    for (std::size_t list = 0; list < slots.size(); ++list) {
      std::uint32_t* const row = want.data() + slots[list] * words;
      if (!keep) std::fill(row, row + words, 0u);
      for (std::int64_t i = offsets[list]; i < offsets[list + 1]; ++i) {
        const std::int32_t token = tokens[static_cast<std::size_t>(i)];
        if (token >= 0 && token < kVocab) row[token / 32] |= 1u << (token % 32);
      }
    }
    OnDevice d_tokens(tokens, stream);
    OnDevice d_offsets(offsets, stream);
    OnDevice d_slots(slots, stream);
    cuda::SeenArgs args;
    args.tokens = d_tokens.data();
    args.offsets = d_offsets.data();
    args.slot = d_slots.data();
    args.lists = 3;
    args.vocab = kVocab;
    args.keep = keep;
    args.seen = seen.data();
    cuda_check(cuda::mark_seen(args, stream.handle()), "mark_seen");
    EXPECT_EQ(on_host(seen.data(), kSlots * words, stream), want) << keep;
    args.seen = nullptr;
    EXPECT_NE(cuda::mark_seen(args, stream.handle()), 0);
    args.lists = 0;
    EXPECT_EQ(cuda::mark_seen(args, stream.handle()), 0);
  }
}

TEST_F(CudaSample, RefusesWhatMeansNothing) {
  const CudaStream stream;
  DeviceBuffer buffer(1 << 16, "test");
  fill_device(buffer.data(), 0, buffer.size(), stream.handle());
  cuda::SampleArgs good;
  good.logits = buffer.as<float>();
  good.ld = 64;
  good.rows = 2;
  good.vocab = 64;
  good.row = reinterpret_cast<SampleRow*>(buffer.data() + 1024);
  good.token = reinterpret_cast<std::int32_t*>(buffer.data() + 2048);
  good.top_id = good.token;
  good.top_logprob = reinterpret_cast<float*>(buffer.data() + 3072);
  good.workspace = buffer.data() + 4096;
  ASSERT_LE(cuda::sample_workspace_bytes(2, 64), (1 << 16) - 4096);
  const auto refused = [&](auto change) {
    cuda::SampleArgs args = good;
    change(args);
    return cuda::sample(args, stream.handle()) != 0;
  };
  EXPECT_FALSE(refused([](auto&) {}));
  EXPECT_FALSE(refused([](auto& a) { a.rows = 0; }));
  EXPECT_FALSE(refused([](auto& a) { a.top_n = 20; }));
  EXPECT_TRUE(refused([](auto& a) { a.rows = -1; }));
  EXPECT_TRUE(refused([](auto& a) { a.vocab = 0; }));
  EXPECT_TRUE(refused([](auto& a) { a.vocab = kMostSampleVocab + 1; }));
  EXPECT_TRUE(refused([](auto& a) { a.ld = 63; }));
  EXPECT_TRUE(refused([](auto& a) { a.logits = nullptr; }));
  EXPECT_TRUE(refused([](auto& a) { a.row = nullptr; }));
  EXPECT_TRUE(refused([](auto& a) { a.token = nullptr; }));
  EXPECT_TRUE(refused([](auto& a) { a.workspace = static_cast<std::byte*>(a.workspace) + 4; }));
  EXPECT_TRUE(refused([](auto& a) { a.top_n = 21; }));
  EXPECT_TRUE(refused([](auto& a) { a.top_n = -1; }));
  EXPECT_TRUE(refused([](auto& a) { a.top_n = 1, a.top_id = nullptr; }));
  EXPECT_TRUE(refused([](auto& a) { a.top_n = 1, a.vocab = a.ld = cuda::kMostTopVocab + 1; }));
  stream.synchronize();
}

class CudaSampleLarge : public DeviceTest {};

TEST_F(CudaSampleLarge, Beyond32Bits) {
  constexpr std::int64_t kVocab = 151936;
  constexpr std::int64_t kLd = std::int64_t{1} << 23;
  constexpr std::int64_t kRows = 600;
  SLIDESPARSE_NEED_MEMORY(kRows * kLd * 4);
  const CudaStream stream;
  DeviceBuffer logits(kRows * kLd * 4, "logits");
  cuda_check(cuda::fill_random(DType::kF32, logits.data(), kRows * kLd, 3, stream.handle()), "fill_random");
  std::vector<SampleRow> rows;
  for (std::int64_t r = 0; r < kRows; ++r) rows.push_back(some_row(r, false));
  OnDevice d_rows(rows, stream);
  DeviceBuffer workspace(cuda::sample_workspace_bytes(kRows, kVocab), "workspace");
  OnDevice token(poison<std::int32_t>(kRows), stream);
  OnDevice logprob(poison<float>(kRows), stream);
  cuda::SampleArgs args;
  args.logits = logits.as<float>();
  args.ld = kLd;
  args.rows = kRows;
  args.vocab = kVocab;
  args.row = d_rows.data();
  args.token = token.data();
  args.logprob = logprob.data();
  args.workspace = workspace.data();
  cuda_check(cuda::sample(args, stream.handle()), "sample");
  const auto tokens = on_host(token.data(), kRows, stream);
  const auto logprobs = on_host(logprob.data(), kRows, stream);
  for (std::int64_t r = 0; r < kRows; r = r < kRows - 16 ? r + 97 : r + 1) {
    const auto at = static_cast<std::size_t>(r);
    const auto host = on_host(logits.as<float>() + r * kLd, kVocab, stream);
    EXPECT_EQ(tokens[at], sample_token(rows[at], host, {})) << r;
    EXPECT_FLOAT_EQ(logprobs[at], token_logprob(host, tokens[at])) << r;
  }
}

}  // namespace
}  // namespace slidesparse
