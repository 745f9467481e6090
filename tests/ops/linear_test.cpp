#include "ops/linear.h"

#include <gtest/gtest.h>

#include <thread>

#include "core/buffer.h"
#include "core/numeric.h"
#include "core/random.h"
#include "quant/activations.h"
#include "slidesparse/core/error.h"
#include "slidesparse/format/pack.h"

namespace slidesparse {
namespace {

// INT8 weights that obey 6:8, dense and packed.
struct Weights {
  std::int64_t n, k;
  std::vector<std::int8_t> dense, values;
  std::vector<std::uint8_t> codes;
  std::vector<std::uint16_t> scales, bias;

  Weights(std::int64_t rows, std::int64_t columns) : n(rows), k(columns) {
    const Pattern pattern = Pattern::of_half_group(4);
    for (std::int64_t i = 0; i < n * k; ++i) {
      dense.push_back(i % 8 == 3 || i % 8 == (i / 8) % 3
                          ? std::int8_t{0}
                          : static_cast<std::int8_t>(random_bits(1, static_cast<std::uint64_t>(i))));
    }
    values.resize(static_cast<std::size_t>(n * pattern.values_per_row(k)));
    codes.resize(static_cast<std::size_t>(n * pattern.code_bytes_per_row(k)));
    pack_rows(pattern, DType::kI8, dense.data(), n, k, k, values.data(), codes.data());
    for (std::int64_t i = 0; i < n; ++i) {
      scales.push_back(float_to_bf16(0.01f + 0.001f * static_cast<float>(i)));
      bias.push_back(float_to_bf16(0.5f - 0.1f * static_cast<float>(i)));
    }
  }

  WeightSource source(bool packed) const {
    WeightSource source;
    source.layout = packed ? Layout::kPacked : Layout::kDense;
    source.pattern = packed ? Pattern::of_half_group(4) : Pattern();
    source.n = n;
    source.k = k;
    source.values = packed ? values.data() : dense.data();
    source.codes = packed ? codes.data() : nullptr;
    source.scales = scales.data();
    source.bias = bias.data();
    return source;
  }
};

std::vector<std::uint16_t> activations(std::int64_t count) {
  std::vector<std::uint16_t> x;
  for (std::int64_t i = 0; i < count; ++i)
    x.push_back(float_to_bf16(random_normal(9, static_cast<std::uint64_t>(i))));
  return x;
}

std::vector<std::uint16_t> run(const Linear& linear, std::int64_t m, std::vector<std::uint16_t>& x,
                               std::int64_t ldout) {
  Arena arena(static_cast<std::size_t>(linear.workspace_bytes(m)) + (std::size_t{1} << 20));
  Context context;
  context.arena = &arena;
  std::vector<std::uint16_t> out(static_cast<std::size_t>(m * ldout), 0x1234);
  const QuantisedInput input = quantise_input(
      context, TensorView::contiguous(static_cast<void*>(x.data()), DType::kBF16, {m, linear.k()}),
      linear.dtype());
  TensorView view = TensorView::contiguous(static_cast<void*>(out.data()), DType::kBF16, {m, linear.n()});
  view.strides[0] = ldout;
  linear.run(context, input, view);
  return out;
}

// float(acc) * sx * sw + bias, rounded once.
std::vector<std::uint16_t> expected(const Weights& w, std::int64_t m, const std::vector<std::uint16_t>& x,
                                    std::int64_t ldout) {
  std::vector<std::int8_t> codes(x.size());
  std::vector<float> scales(static_cast<std::size_t>(m));
  quantise_tokens(DType::kI8, x.data(), m, w.k, w.k, codes.data(), scales.data());
  std::vector<std::uint16_t> out(static_cast<std::size_t>(m * ldout), 0x1234);
  for (std::int64_t t = 0; t < m; ++t) {
    for (std::int64_t r = 0; r < w.n; ++r) {
      std::int32_t acc = 0;
      for (std::int64_t i = 0; i < w.k; ++i) {
        acc += codes[static_cast<std::size_t>(t * w.k + i)] * w.dense[static_cast<std::size_t>(r * w.k + i)];
      }
      const auto row = static_cast<std::size_t>(r);
      const float value =
          static_cast<float>(acc) * scales[static_cast<std::size_t>(t)] * bf16_to_float(w.scales[row]) +
          bf16_to_float(w.bias[row]);
      out[static_cast<std::size_t>(t * ldout + r)] = float_to_bf16(value);
    }
  }
  return out;
}

TEST(Linear, DensePackedAndReferenceAgreeBitForBit) {
  const Weights weights(37, 88);
  for (const std::int64_t m : {1, 2, 5, 16, 70}) {
    std::vector<std::uint16_t> x = activations(m * 88);
    for (const std::int64_t ldout : {37, 50}) {
      const auto wanted = expected(weights, m, x, ldout);
      for (const bool packed : {false, true}) {
        EXPECT_EQ(run(Linear("w", weights.source(packed), {}), m, x, ldout), wanted)
            << m << " packed " << packed;
        EXPECT_EQ(run(Linear("w", weights.source(packed), {{"reference"}}), m, x, ldout), wanted) << m;
      }
    }
  }
}

TEST(Linear, SaysWhatItIs) {
  const Weights weights(37, 88);
  const Linear dense("model.dense", weights.source(false), {});
  const Linear packed("model.packed", weights.source(true), {});
  EXPECT_EQ(dense.name(), "model.dense");
  EXPECT_EQ(packed.pattern().to_string(), "6:8");
  EXPECT_EQ(dense.stored_bytes(), 37 * (88 + 2 + 2));
  EXPECT_EQ(packed.stored_bytes(), 37 * (66 + 7 + 2 + 2));
  EXPECT_FALSE(dense.choice(1).kernel.sparse);
  EXPECT_TRUE(packed.choice(1).kernel.sparse);
  EXPECT_LT(packed.weight_bytes_read(1), dense.weight_bytes_read(1));
}

TEST(Linear, ManyThreadsMayAskAtOnce) {
  const Weights weights(37, 88);
  const Linear linear("w", weights.source(true), {});
  std::vector<std::thread> threads;
  std::array<bool, 4> right{};
  for (std::size_t i = 0; i < right.size(); ++i) {
    threads.emplace_back([&, i] {
      right[i] = true;
      for (std::int64_t m = 1; m < 12; ++m) {
        std::vector<std::uint16_t> x = activations(m * 88);
        right[i] = right[i] && run(linear, m, x, 37) == expected(weights, m, x, 37);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const bool ok : right) EXPECT_TRUE(ok);
}

TEST(Linear, RefusesUnknownBackendsAndWrongShapes) {
  const Weights weights(37, 88);
  std::vector<std::uint16_t> x = activations(90);
  EXPECT_THROW(run(Linear("w", weights.source(true), {{"abacus"}}), 1, x, 37), Error);
  const Linear linear("w", weights.source(true), {});
  Arena arena(1 << 20);
  Context context;
  context.arena = &arena;
  const QuantisedInput narrow = quantise_input(
      context, TensorView::contiguous(static_cast<void*>(x.data()), DType::kBF16, {1, 80}), DType::kI8);
  std::vector<std::uint16_t> out(37);
  EXPECT_THROW(linear.run(context, narrow,
                          TensorView::contiguous(static_cast<void*>(out.data()), DType::kBF16, {1, 37})),
               Error);
}

}  // namespace
}  // namespace slidesparse
