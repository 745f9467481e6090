#include "kernels/cuda/sample_case.h"

#include <fmt/core.h>

#include <bit>
#include <cmath>
#include <limits>

#include "core/random.h"
#include "engine/sampler.h"
#include "kernels/cuda/device_test.h"

namespace slidesparse {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
// What ids are poisoned with: all bits set would be -1, which is an answer.
constexpr int kIdByte = 0x7f;
constexpr std::int32_t kIdPoison = 0x7f7f7f7f;

// What came back from the card; one more row than there is, which must stay poisoned.
struct Outputs {
  std::vector<std::int32_t> token;
  std::vector<float> logprob;
  std::vector<std::int32_t> top_id;
  std::vector<float> top_logprob;
  std::vector<std::uint32_t> seen;
};

// FP64 logarithms that differ in their last place may round to neighbours.
bool is_near(float a, float b) {
  return a == b || std::nextafter(a, b) == b;
}

bool is_poison(float value) {
  return std::bit_cast<std::uint32_t>(value) == 0xffffffffu;
}

void expect_same(const Outputs& a, const Outputs& b, std::string_view what) {
  EXPECT_EQ(a.token, b.token) << what;
  EXPECT_EQ(a.top_id, b.top_id) << what;
  EXPECT_EQ(a.seen, b.seen) << what;
  for (std::size_t i = 0; i < a.logprob.size(); ++i)
    ASSERT_EQ(std::bit_cast<std::uint32_t>(a.logprob[i]), std::bit_cast<std::uint32_t>(b.logprob[i])) << what;
  for (std::size_t i = 0; i < a.top_logprob.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(a.top_logprob[i]), std::bit_cast<std::uint32_t>(b.top_logprob[i]))
        << what;
  }
}

void check_row(const SampleCase& c, std::int64_t r, const Outputs& got) {
  const auto at = static_cast<std::size_t>(r);
  const SampleRow& row = c.row[at];
  SCOPED_TRACE(fmt::format(
      "row {}: temperature {}, top-k {}, top-p {}, min-p {}, penalty {}, seed {}, index {}", r,
      row.temperature, row.top_k, row.top_p, row.min_p, row.repetition_penalty, row.seed, row.index));
  const std::span<const float> logits(c.logits.data() + r * c.ld, static_cast<std::size_t>(c.vocab));
  const std::int64_t words = seen_words(c.vocab);
  std::vector<std::uint32_t> seen(c.seen.begin() + row.slot * words, c.seen.begin() + (row.slot + 1) * words);
  SampleRow used = row;
  if (!c.with_seen) used.repetition_penalty = 1;
  const std::int32_t token = sample_token(used, logits, seen);
  ASSERT_EQ(got.token[at], token);
  if (token >= 0 && used.repetition_penalty != 1.0f)
    seen[static_cast<std::size_t>(token / 32)] |= 1u << (token % 32);
  for (std::int64_t i = 0; i < words; ++i)
    ASSERT_EQ(got.seen[static_cast<std::size_t>(row.slot * words + i)], seen[static_cast<std::size_t>(i)])
        << i;
  if (c.with_logprob) {
    const float want = token_logprob(logits, token);
    ASSERT_TRUE(is_near(got.logprob[at], want)) << got.logprob[at] << " for " << want;
  }
  const std::vector<TokenLogprob> top = top_logprobs(logits, c.top_n);
  for (int i = 0; i < c.top_n; ++i) {
    const std::size_t place = at * static_cast<std::size_t>(c.top_n) + static_cast<std::size_t>(i);
    const bool is_there = i < static_cast<int>(top.size());
    const TokenLogprob want = is_there ? top[static_cast<std::size_t>(i)] : TokenLogprob{-1, -kInfinity};
    ASSERT_EQ(got.top_id[place], want.id) << i;
    ASSERT_TRUE(is_near(got.top_logprob[place], want.logprob))
        << i << ": " << got.top_logprob[place] << " for " << want.logprob;
  }
}

}  // namespace

std::vector<std::string_view> logit_kinds() {
  return {"normal", "spread", "flat", "ties", "equal", "dominant", "nan", "inf", "masked", "none"};
}

std::vector<float> make_logits(std::string_view kind, std::int64_t count, std::uint64_t seed) {
  std::vector<float> logits(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const float normal = random_normal(seed, i);
    const std::uint64_t chance = random_bits(seed + 1, i) % 1000;
    float x = normal * 2.0f;
    if (kind == "spread") x = normal * 6.0f;
    if (kind == "flat") x = normal * 0.01f;
    if (kind == "ties") x = std::round(normal * 1.5f) * 0.5f;  // -0 and +0 among them
    if (kind == "equal") x = -1.25f;
    if (kind == "dominant" && chance == 7) x = 60.0f;
    if (kind == "nan" && chance % 3 == 0) x = kNan;
    if (kind == "inf" && chance < 20) x = chance < 2 ? kInfinity : -kInfinity;
    if (kind == "masked" && chance != 3) x = -kInfinity;
    if (kind == "none") x = chance % 2 == 0 ? kNan : -kInfinity;
    logits[i] = x;
  }
  return logits;
}

SampleRow some_row(std::int64_t i, bool with_penalty) {
  constexpr SampleRow kRows[] = {
      {.temperature = 0},
      {.temperature = 1},
      {.temperature = 1, .top_k = 50},
      {.temperature = 1, .top_p = 0.9f},
      {.temperature = 0.6f, .top_p = 0.95f, .top_k = 20},
      {.temperature = 1.5f, .min_p = 0.05f},
      {.temperature = 1, .top_k = 1},
      {.temperature = 0.8f, .top_p = 1e-12f},
      {.temperature = 2, .top_p = 0.99f, .min_p = 1e-4f, .top_k = 5000},
      {.temperature = 1e-3f},
      {.temperature = 100, .top_p = 0.5f},
      {.temperature = 1, .top_k = 2147483647},
      {.temperature = 1e6f, .top_k = 40000},
      {.temperature = 1e-42f, .top_p = 0.5f},
      {.temperature = 0.9f, .min_p = 1, .top_k = 3},
  };
  SampleRow row = kRows[static_cast<std::size_t>(i) % std::size(kRows)];
  constexpr float kPenalties[] = {1.0f, 1.1f, 2.0f, 0.7f};
  if (with_penalty)
    row.repetition_penalty = kPenalties[static_cast<std::size_t>(i / 2) % std::size(kPenalties)];
  row.seed = random_bits(77, static_cast<std::uint64_t>(i));
  row.index = static_cast<std::uint64_t>(i * i);
  return row;
}

void check_sample(const SampleCase& c, const CudaStream& stream) {
  SCOPED_TRACE(
      fmt::format("vocab {}, ld {}, rows {}, seen {}, all greedy {}, logprob {}, top {}, {} bytes off",
                  c.vocab, c.ld, c.rows(), c.with_seen, c.all_greedy, c.with_logprob, c.top_n, c.offset));
  OnDevice logits(c.logits, stream, c.offset);
  // Rows without a penalty must not look at their slot.
  std::vector<SampleRow> rows = c.row;
  for (SampleRow& row : rows) {
    if (!c.with_seen || row.repetition_penalty == 1.0f) row.slot = -(1 << 30);
  }
  OnDevice row(rows, stream);
  OnDevice seen(c.seen, stream);
  const std::int64_t workspace_bytes = cuda::sample_workspace_bytes(c.rows(), c.vocab);
  OnDevice workspace(poison<std::uint8_t>(workspace_bytes), stream);
  OnDevice token(std::vector<std::int32_t>(c.row.size() + 1), stream);
  OnDevice logprob(std::vector<float>(c.row.size() + 1), stream);
  OnDevice top_id(std::vector<std::int32_t>((c.row.size() + 1) * cuda::kMostTopLogprobs), stream);
  OnDevice top_logprob(std::vector<float>((c.row.size() + 1) * cuda::kMostTopLogprobs), stream);
  cuda::SampleArgs args;
  args.logits = logits.data();
  args.ld = c.ld;
  args.rows = c.rows();
  args.vocab = c.vocab;
  args.row = row.data();
  args.all_greedy = c.all_greedy;
  args.seen = c.with_seen ? seen.data() : nullptr;
  args.token = token.data();
  args.logprob = c.with_logprob ? logprob.data() : nullptr;
  args.top_n = c.top_n;
  args.top_id = top_id.data();
  args.top_logprob = top_logprob.data();
  args.workspace = workspace.data();

  const std::int64_t tops = (c.rows() + 1) * cuda::kMostTopLogprobs;
  const auto run = [&](auto&& launch) {
    copy_to_device(seen.data(), c.seen.data(), static_cast<std::int64_t>(c.seen.size()) * 4, stream.handle());
    fill_device(workspace.data(), 0xff, workspace_bytes, stream.handle());
    fill_device(token.data(), kIdByte, (c.rows() + 1) * 4, stream.handle());
    fill_device(logprob.data(), 0xff, (c.rows() + 1) * 4, stream.handle());
    fill_device(top_id.data(), kIdByte, tops * 4, stream.handle());
    fill_device(top_logprob.data(), 0xff, tops * 4, stream.handle());
    launch();
    Outputs got;
    got.token = on_host(token.data(), c.rows() + 1, stream);
    got.logprob = on_host(logprob.data(), c.rows() + 1, stream);
    got.top_id = on_host(top_id.data(), tops, stream);
    got.top_logprob = on_host(top_logprob.data(), tops, stream);
    got.seen = on_host(seen.data(), static_cast<std::int64_t>(c.seen.size()), stream);
    return got;
  };
  const auto call = [&] { cuda_check(cuda::sample(args, stream.handle()), "sample"); };
  const Outputs first = run(call);
  for (std::int64_t r = 0; r < c.rows(); ++r) {
    check_row(c, r, first);
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_EQ(first.token.back(), kIdPoison) << "a token behind the last row";
  for (std::size_t i = c.with_logprob ? c.row.size() : 0; i < first.logprob.size(); ++i)
    ASSERT_TRUE(is_poison(first.logprob[i])) << "log probability " << i;
  for (std::size_t i = c.row.size() * static_cast<std::size_t>(c.top_n); i < first.top_id.size(); ++i) {
    ASSERT_EQ(first.top_id[i], kIdPoison) << "top id " << i;
    ASSERT_TRUE(is_poison(first.top_logprob[i])) << "top log probability " << i;
  }
  expect_same(run(call), first, "a second run");
  const CudaGraph graph(stream, call);
  expect_same(run([&] { graph.launch(stream.handle()); }), first, "from a graph");
}

}  // namespace slidesparse
