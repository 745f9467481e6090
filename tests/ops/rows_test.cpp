// Elementwise operations against double arithmetic, on every instruction set.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/buffer.h"
#include "core/cpu.h"
#include "core/numeric.h"
#include "core/random.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "quant/activations.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using Bits = std::vector<std::uint16_t>;

class Ops : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (GetParam() > detected_isa()) GTEST_SKIP() << "this processor has less";
    force_isa(GetParam());
    context_.arena = &arena_;
    arena_.reserve(std::size_t{64} << 20);
  }
  void TearDown() override { force_isa(std::nullopt); }

  Arena arena_;
  Context context_;
};

Bits random_bf16(std::int64_t count, std::uint64_t seed, float scale = 1.0f, float mean = 0.0f) {
  Bits bits(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < bits.size(); ++i)
    bits[i] = float_to_bf16(mean + scale * random_normal(seed, i));
  return bits;
}

TensorView view(Bits& bits, const Shape& shape) {
  return TensorView::contiguous(static_cast<void*>(bits.data()), DType::kBF16, shape);
}

// Whether `got` is the BF16 next to `exact`, give or take `ulps` of BF16.
void expect_bf16(std::uint16_t got, double exact, double ulps, const char* what, std::size_t i) {
  const double step = std::ldexp(1.0, std::max(-133, std::ilogb(exact == 0 ? 1e-30 : exact) - 7));
  EXPECT_NEAR(bf16_to_float(got), exact, (0.5 + ulps) * step) << what << " " << i;
}

constexpr std::int64_t kWidths[] = {1, 2, 31, 32, 33, 64, 100, 576, 1536};

TEST_P(Ops, RmsNorm) {
  for (const std::int64_t n : kWidths) {
    Bits x = random_bf16(3 * n, 1, 2.0f);
    Bits w = random_bf16(n, 2, 0.3f, 1.0f);
    Bits out(x.size(), 0x7fc0);
    rms_norm(context_, view(x, {3, n}), view(w, {n}), 1e-5, view(out, {3, n}));
    for (std::int64_t m = 0; m < 3; ++m) {
      double sum = 0;
      for (std::int64_t i = 0; i < n; ++i)
        sum += std::pow(bf16_to_float(x[static_cast<std::size_t>(m * n + i)]), 2);
      const double inverse = 1.0 / std::sqrt(sum / static_cast<double>(n) + 1e-5);
      for (std::int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<std::size_t>(m * n + i);
        const double weight = bf16_to_float(w[static_cast<std::size_t>(i)]);
        // Two roundings: the normalised value to BF16, then the product.
        expect_bf16(out[at], bf16_to_float(x[at]) * inverse * weight, 1.1, "rms_norm", at);
      }
    }
  }
}

TEST_P(Ops, AddRmsNormIsAddThenNorm) {
  const std::int64_t n = 100;
  Bits residual = random_bf16(5 * n, 3);
  Bits x = random_bf16(5 * n, 4);
  Bits w = random_bf16(n, 5, 0.3f, 1.0f);
  Bits sum = residual, expected(residual.size()), out(residual.size());
  add(context_, view(sum, {5, n}), view(x, {5, n}));
  rms_norm(context_, view(sum, {5, n}), view(w, {n}), 1e-6, view(expected, {5, n}));
  add_rms_norm(context_, view(residual, {5, n}), view(x, {5, n}), view(w, {n}), 1e-6, view(out, {5, n}));
  EXPECT_EQ(residual, sum);
  EXPECT_EQ(out, expected);
}

TEST_P(Ops, SiluMul) {
  const std::int64_t n = 333;
  Bits gate_up = random_bf16(2 * 2 * n, 6, 5.0f);
  gate_up[0] = float_to_bf16(-200.0f);
  gate_up[1] = float_to_bf16(200.0f);
  gate_up[2] = 0;
  Bits out(static_cast<std::size_t>(2 * n));
  silu_mul(context_, view(gate_up, {2, 2 * n}), view(out, {2, n}));
  for (std::size_t m = 0; m < 2; ++m) {
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
      const double gate = bf16_to_float(gate_up[m * 2 * n + i]);
      const double up = bf16_to_float(gate_up[m * 2 * n + n + i]);
      const double exact = gate / (1.0 + std::exp(-gate)) * up;
      if (std::abs(exact) < 1e-30) {
        EXPECT_NEAR(bf16_to_float(out[m * n + i]), exact, 1e-30);
      } else {
        expect_bf16(out[m * n + i], exact, 0.02, "silu_mul", i);
      }
    }
  }
}

TEST_P(Ops, NanStaysNan) {
  Bits gate_up(64, float_to_bf16(1.0f));
  gate_up[5] = 0x7fc0;
  Bits out(32);
  silu_mul(context_, view(gate_up, {1, 64}), view(out, {1, 32}));
  EXPECT_TRUE(std::isnan(bf16_to_float(out[5])));
  EXPECT_FALSE(std::isnan(bf16_to_float(out[6])));
}

TEST_P(Ops, RotaryTurnsPairsByPositionTimesFrequency) {
  const std::vector<float> frequencies{1.0f, 0.25f, 0.01f};
  const std::vector<std::int32_t> positions{0, 1, 700};
  Bits q = random_bf16(3 * 2 * 6, 7), k = random_bf16(3 * 1 * 6, 8);
  const Bits q_before = q, k_before = k;
  std::vector<float> table(3 * 6);
  const TensorView angles = TensorView::contiguous(static_cast<void*>(table.data()), DType::kF32, {3, 6});
  rotary_table(context_, positions, frequencies, angles);
  rotary(context_, view(q, {3, 2, 6}), view(k, {3, 1, 6}), angles);
  const auto check = [&](const Bits& before, const Bits& after, std::size_t heads) {
    for (std::size_t m = 0; m < 3; ++m) {
      for (std::size_t h = 0; h < heads; ++h) {
        const std::size_t at = (m * heads + h) * 6;
        for (std::size_t i = 0; i < 3; ++i) {
          const double angle = static_cast<double>(positions[m]) * frequencies[i];
          const double a = bf16_to_float(before[at + i]), b = bf16_to_float(before[at + 3 + i]);
          EXPECT_NEAR(bf16_to_float(after[at + i]), a * std::cos(angle) - b * std::sin(angle),
                      0.005 * (std::abs(a) + std::abs(b)));
          EXPECT_NEAR(bf16_to_float(after[at + 3 + i]), b * std::cos(angle) + a * std::sin(angle),
                      0.005 * (std::abs(a) + std::abs(b)));
        }
      }
    }
  };
  check(q_before, q, 2);
  check(k_before, k, 1);
  EXPECT_EQ(Bits(q.begin(), q.begin() + 12), Bits(q_before.begin(), q_before.begin() + 12));  // position 0
}

TEST_P(Ops, HeadNormWorksInPlaceOnEachHead) {
  Bits x = random_bf16(2 * 3 * 16, 9, 3.0f), w = random_bf16(16, 10, 0.2f, 1.0f);
  Bits expected(x.size());
  rms_norm(context_, view(x, {6, 16}), view(w, {16}), 1e-6, view(expected, {6, 16}));
  head_rms_norm(context_, view(x, {2, 3, 16}), view(w, {16}), 1e-6);
  EXPECT_EQ(x, expected);
}

TEST_P(Ops, EmbedCopiesRowsAndRefusesWhatIsNoToken) {
  Bits table = random_bf16(10 * 7, 11), out(3 * 7);
  const std::vector<std::int32_t> tokens{9, 0, 4};
  embed(context_, view(table, {10, 7}), tokens, view(out, {3, 7}));
  for (std::size_t t = 0; t < 3; ++t) {
    for (std::size_t i = 0; i < 7; ++i)
      EXPECT_EQ(out[t * 7 + i], table[static_cast<std::size_t>(tokens[t]) * 7 + i]);
  }
  for (const std::int32_t bad : {-1, 10, INT32_MAX, INT32_MIN}) {
    const std::vector<std::int32_t> wrong{bad, 0, 0};
    EXPECT_THROW(embed(context_, view(table, {10, 7}), wrong, view(out, {3, 7})), Error);
  }
}

// Every BF16 value as a token of its own and together, against the definition.
TEST_P(Ops, QuantisationIsBitEqualToTheDefinition) {
  for (const DType dtype : {DType::kI8, DType::kF8E4M3}) {
    std::vector<Bits> tokens;
    for (const std::int64_t k : kWidths) {
      for (std::uint64_t seed = 0; seed < 20; ++seed) {
        tokens.push_back(random_bf16(k, seed, std::ldexp(1.0f, static_cast<int>(seed * 12) - 120)));
      }
    }
    Bits sweep;  // all finite values, with the largest magnitudes first in chunks of growing range
    for (std::uint32_t bits = 0; bits < 0x7f80u; ++bits) {
      sweep.push_back(static_cast<std::uint16_t>(bits));
      sweep.push_back(static_cast<std::uint16_t>(bits | 0x8000u));
      if (sweep.size() == 2048) {
        tokens.push_back(sweep);
        sweep.clear();
      }
    }
    for (const std::uint16_t special : {0x0000, 0x8000, 0x0001, 0x7f80, 0xff80, 0x7fc0, 0x7f7f}) {
      Bits token = random_bf16(40, 5);
      token[33] = special;
      tokens.push_back(token);
      tokens.emplace_back(40, special);
    }
    // Ties of INT8 and of E4M3: multiples of half a step below the largest value.
    Bits ties;
    for (int i = -254; i <= 254; ++i) ties.push_back(float_to_bf16(0.5f * static_cast<float>(i)));
    tokens.push_back(ties);
    for (Bits& token : tokens) {
      Arena::Scope scope(arena_);
      const auto k = static_cast<std::int64_t>(token.size());
      std::vector<std::uint8_t> codes(token.size(), 0xaa);
      float scale = -1.0f;
      quantise_tokens(dtype, token.data(), 1, k, k, codes.data(), &scale);
      const QuantisedInput input = quantise_input(context_, view(token, {1, k}), dtype);
      EXPECT_EQ(std::memcmp(input.codes.data, codes.data(), codes.size()), 0)
          << dtype_name(dtype) << " k " << k;
      EXPECT_EQ(std::bit_cast<std::uint32_t>(input.scales[0]), std::bit_cast<std::uint32_t>(scale));
    }
  }
}

TEST_P(Ops, QuantisationOfManyTokensAndOfBf16) {
  Bits x = random_bf16(64 * 640, 3);
  Arena::Scope scope(arena_);
  const TensorView whole = view(x, {64, 640});
  TensorView part = TensorView::contiguous(whole.data, DType::kBF16, {64, 600});
  part.strides[0] = 640;  // a row stride of its own
  std::vector<std::uint8_t> codes(64 * 600);
  std::vector<float> scales(64);
  quantise_tokens(DType::kI8, x.data(), 64, 600, 640, codes.data(), scales.data());
  const QuantisedInput input = quantise_input(context_, part, DType::kI8);
  EXPECT_EQ(std::memcmp(input.codes.data, codes.data(), codes.size()), 0);
  EXPECT_EQ(std::memcmp(input.scales, scales.data(), 4 * scales.size()), 0);
  EXPECT_EQ(quantise_input(context_, part, DType::kBF16).codes.data, whole.data);
}

TEST_P(Ops, LogProbabilities) {
  const std::int64_t vocab = 9001;
  std::vector<float> logits(static_cast<std::size_t>(2 * vocab));
  for (std::size_t i = 0; i < logits.size(); ++i)
    logits[i] = 6.0f * random_normal(1, i) + (i < 9001 ? 80.0f : -3000.0f);
  const std::vector<std::int32_t> targets{5, 9000};
  std::vector<double> got(2);
  token_log_probabilities(context_,
                          TensorView::contiguous(static_cast<void*>(logits.data()), DType::kF32, {2, vocab}),
                          targets, got);
  for (std::size_t m = 0; m < 2; ++m) {
    const float* row = logits.data() + m * 9001;
    double highest = -1e300, sum = 0;
    for (std::int64_t i = 0; i < vocab; ++i) highest = std::max<double>(highest, row[i]);
    for (std::int64_t i = 0; i < vocab; ++i) sum += std::exp(row[i] - highest);
    EXPECT_NEAR(got[m], row[targets[m]] - highest - std::log(sum), 2e-6);
  }
  logits[17] = std::numeric_limits<float>::quiet_NaN();
  token_log_probabilities(context_,
                          TensorView::contiguous(static_cast<void*>(logits.data()), DType::kF32, {2, vocab}),
                          targets, got);
  EXPECT_TRUE(std::isnan(got[0]));
  EXPECT_FALSE(std::isnan(got[1]));
}

TEST_P(Ops, KlDivergences) {
  const std::int64_t vocab = 777;
  std::vector<float> p(3 * 777), q(p.size());
  for (std::size_t i = 0; i < p.size(); ++i) {
    p[i] = 4.0f * random_normal(1, i) + 60.0f;
    // The same; a little different; the same but for a constant, which a softmax does not see.
    q[i] = i < 777 ? p[i] : i < 1554 ? p[i] + 0.05f * random_normal(2, i) : p[i] - 3.0f;
  }
  std::vector<double> got(3);
  const auto matrix = [&](std::vector<float>& x) {
    return TensorView::contiguous(static_cast<void*>(x.data()), DType::kF32, {3, vocab});
  };
  kl_divergences(context_, matrix(p), matrix(q), got);
  double of_p = 0, of_q = 0, want = 0;
  for (std::size_t i = 777; i < 1554; ++i) {
    of_p += std::exp(static_cast<double>(p[i]));
    of_q += std::exp(static_cast<double>(q[i]));
  }
  for (std::size_t i = 777; i < 1554; ++i) {
    const double log_p = static_cast<double>(p[i]) - std::log(of_p);
    want += std::exp(log_p) * (log_p - (static_cast<double>(q[i]) - std::log(of_q)));
  }
  EXPECT_NEAR(got[0], 0, 1e-9);
  EXPECT_NEAR(got[1], want, 1e-6 + 1e-3 * want);
  EXPECT_NEAR(got[2], 0, 1e-5);
  std::vector<double> few(2);
  EXPECT_THROW(kl_divergences(context_, matrix(p), matrix(q), few), Error);
}

// The promise of ops_rows.h: all instruction sets give the same bits.
TEST_P(Ops, SameBitsAsPortable) {
  Bits x = random_bf16(1000, 21, 3.0f), w = random_bf16(500, 22, 0.3f, 1.0f), normed(1000), active(500);
  const auto run = [&] {
    rms_norm(context_, view(x, {2, 500}), view(w, {500}), 1e-6, view(normed, {2, 500}));
    silu_mul(context_, view(x, {1, 1000}), view(active, {1, 500}));
    return std::pair(normed, active);
  };
  const auto here = run();
  force_isa(Isa::kPortable);
  EXPECT_EQ(run(), here);
}

INSTANTIATE_TEST_SUITE_P(Isas, Ops, testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512),
                         [](const auto& instance) { return std::string(isa_name(instance.param)); });

}  // namespace
}  // namespace slidesparse
