#include "kernels/cuda/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/numeric.h"
#include "core/random.h"
#include "kernels/cuda/device_test.h"
#include "kernels/cuda/fill.h"
#include "kernels/cuda/quantize_case.h"
#include "slidesparse/format/pattern.h"

namespace slidesparse {
namespace {

using cuda::Producer;

constexpr Producer kProducers[] = {Producer::kNone, Producer::kRmsNorm, Producer::kSiluMul};
constexpr DType kOuts[] = {DType::kI8, DType::kF8E4M3, DType::kBF16};

std::vector<std::int32_t> random_perm(std::int64_t k, std::uint64_t seed) {
  std::vector<std::int32_t> perm(static_cast<std::size_t>(k));
  std::iota(perm.begin(), perm.end(), 0);
  Random random(seed);
  for (std::size_t i = perm.size(); i > 1; --i) {
    std::swap(perm[i - 1], perm[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(i)))]);
  }
  return perm;
}

std::vector<std::uint16_t> bf16_of(const std::vector<float>& values) {
  std::vector<std::uint16_t> bits;
  bits.reserve(values.size());
  for (const float value : values) bits.push_back(float_to_bf16(value));
  return bits;
}

class CudaQuantizeShapes : public DeviceTest, public testing::WithParamInterface<std::int64_t> {};

// Every producer, type and arrangement; rows, strides, padding and alignment take turns.
TEST_P(CudaQuantizeShapes, EqualsTheCpu) {
  const std::int64_t k = GetParam();
  const CudaStream stream;
  Random random(static_cast<std::uint64_t>(k));
  constexpr std::int64_t kMs[] = {1, 3, 17, 64, 257, 600};
  constexpr std::int64_t kMostElements = 300000;
  constexpr int kGathered = 1;  // among 0, 2 .. 8, which are lifts
  for (const Producer producer : kProducers) {
    for (const DType out : kOuts) {
      for (int arrangement = 0; arrangement <= 8; ++arrangement) {
        QuantizeCase c;
        c.producer = producer;
        c.out = out;
        c.k = k;
        do {
          c.m = kMs[random.below(6)];
        } while (c.m > 3 && c.m * k > kMostElements);
        c.lift = arrangement == kGathered ? 0 : arrangement;
        if (arrangement == kGathered) c.perm = random_perm(k, random.bits());
        const std::int64_t width = producer == Producer::kSiluMul ? 2 * k : k;
        c.ldx = width + std::vector<std::int64_t>{0, 0, 8, 3}[static_cast<std::size_t>(random.below(4))];
        c.ldq = c.k_out();
        const std::int64_t padding = random.below(4);
        if (padding == 1) c.ldq = (c.ldq + 15) / 16 * 16;
        if (padding == 2) c.ldq = (c.ldq + 31) / 32 * 32 + 32;
        if (padding == 3) c.ldq += 5;
        if (random.below(2) == 0) c.m_padded = (c.m + 15) / 16 * 16;
        if (random.below(4) == 0) c.offset = 2;
        if (producer == Producer::kRmsNorm && random.below(4) != 0) {
          for (std::int64_t i = 0; i < c.m * k; ++i) c.update.push_back(float_to_bf16(random.normal()));
        }
        c.in_place = random.below(2) == 0;
        c.writes_normed = random.below(2) == 0;
        fill_inputs(c, random.bits());
        check_case(c, stream);
        if (HasFailure()) return;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Lengths, CudaQuantizeShapes,
                         testing::Values(1, 7, 8, 31, 250, 256, 264, 576, 1536, 3584, 8960, 18944, 32768,
                                         32776, 40000, 40001));

class CudaQuantize : public DeviceTest {};

// `m` gathered rows; row 4 has no values but zeros, the last one a NaN.
void check_gathered(Producer producer, DType out, std::int64_t m, std::int64_t k, Random& random,
                    const CudaStream& stream) {
  QuantizeCase c;
  c.producer = producer;
  c.out = out;
  c.m = m;
  c.k = k;
  c.ldx = producer == Producer::kSiluMul ? 2 * k : k;
  c.ldq = (k + 63) / 64 * 64 + 64;
  c.m_padded = random.below(2) == 0 ? 0 : (m + 15) / 16 * 16;
  c.perm = random_perm(k, random.bits());
  c.in_place = producer == Producer::kRmsNorm && out == DType::kI8;
  c.writes_normed = producer == Producer::kRmsNorm && out == DType::kF8E4M3;
  fill_inputs(c, random.bits());
  for (std::int64_t i = 0; i < c.ldx; ++i) c.x[static_cast<std::size_t>(4 * c.ldx + i)] = 0;
  c.x[static_cast<std::size_t>((m - 1) * c.ldx + 3)] = 0x7fc0;
  if (producer == Producer::kRmsNorm && k != 264) {
    for (std::int64_t i = 0; i < c.m * c.k; ++i)
      c.update.push_back(i / c.k == 4 ? 0 : float_to_bf16(random_normal(23, static_cast<std::uint64_t>(i))));
  }
  check_case(c, stream);
}

// Rows that are gathered two at a time: an odd number of them; norms whose rows fit into the registers of few
// and of more threads, and of none.
TEST_F(CudaQuantize, ManyGatheredRows) {
  const CudaStream stream;
  Random random(77);
  for (const Producer producer : kProducers) {
    for (const DType out : {DType::kI8, DType::kF8E4M3}) {
      for (const std::int64_t k : {8, 264, 3584, 4104, 8192, 8200}) {
        check_gathered(producer, out, 601, k, random, stream);
        if (HasFailure()) return;
      }
    }
  }
}

// A row a block: one warp, one vector a thread, several.
TEST_F(CudaQuantize, FewGatheredRows) {
  const CudaStream stream;
  Random random(78);
  for (const Producer producer : kProducers) {
    for (const DType out : kOuts) {
      for (const std::int64_t k : {8, 256, 264, 3584, 8192, 8200, 18944, 32768}) {
        check_gathered(producer, out, k < 8200 ? 33 : 6, k, random, stream);
        if (HasFailure()) return;
      }
    }
  }
}

// One token a row of `rows`, all as long as the longest.
QuantizeCase case_of_rows(const std::vector<std::vector<float>>& rows, DType out) {
  QuantizeCase c;
  c.out = out;
  c.m = static_cast<std::int64_t>(rows.size());
  for (const auto& row : rows) c.k = std::max(c.k, static_cast<std::int64_t>(row.size()));
  c.ldx = c.k;
  c.ldq = c.k;
  for (auto row : rows) {
    row.resize(static_cast<std::size_t>(c.k), 0.0f);
    const auto bits = bf16_of(row);
    c.x.insert(c.x.end(), bits.begin(), bits.end());
  }
  return c;
}

TEST_F(CudaQuantize, SpecialTokens) {
  const CudaStream stream;
  const float infinity = INFINITY;
  const float nan = NAN;
  const std::vector<std::vector<float>> rows{
      {},
      {-0.0f, 0.0f, -0.0f},
      {1.0f, nan, 2.0f, -3.0f},
      {1.0f, infinity, 2.0f},
      {-infinity, 2.0f, -0.0f},
      {0x1p-133f, -0x1p-130f, 0x1p-127f},       // subnormals: 1 / scale overflows
      {0x1p-126f, -0x1p-127f, 0x1p-130f},       // the smallest normal
      {0x1p-121f, 0x1.8p-121f, -0x1.fcp-121f},  // about where 1 / scale begins to be finite
      {0x1p-120f, 0x1.02p-120f, -0x1.04p-120f},
      {0x1p-119f, 0x1p-127f, -0x1.04p-119f},
      {0x1.fep127f, -0x1.fep127f, 1.0f},                                   // the largest
      {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 126.5f, -126.5f, -127.0f},  // ties
      {-127.0f, 127.0f, -126.0f},
      {-128.0f, 128.0f, 127.0f, 64.25f},
      {448.0f, 0x1p-9f, 0x1p-10f, 0x1.8p-9f, 0x1.8p-10f, -0x1p-10f, 432.0f, 440.0f, -447.0f, 17.0f, 19.0f},
      {3.0f, -0.0f, 0.0f, -0x1p-133f},
  };
  for (const DType out : kOuts) {
    QuantizeCase c = case_of_rows(rows, out);
    fill_inputs(c, 1);
    check_case(c, stream);
    for (const int lift : {3, 4, 8}) {
      c.lift = lift;
      c.ldq = (c.k_out() + 15) / 16 * 16;
      check_case(c, stream);
    }
  }
}

// Scale 1: the code of a value is the conversion alone. All BF16 values up to the largest that has a code.
TEST_F(CudaQuantize, EveryValueThatHasACode) {
  const CudaStream stream;
  for (const DType out : {DType::kI8, DType::kF8E4M3}) {
    const float largest = out == DType::kI8 ? 127.0f : 448.0f;
    std::vector<float> row{largest};
    for (std::uint32_t bits = 0; bits <= 0xffff; ++bits) {
      const float value = bf16_to_float(static_cast<std::uint16_t>(bits));
      if (std::fabs(value) <= largest) row.push_back(value);
    }
    // In pieces that fit registers, each beginning with the largest; and in one that does not.
    std::vector<std::vector<float>> rows;
    for (std::size_t from = 1; from < row.size(); from += 4000) {
      rows.push_back({largest});
      rows.back().insert(rows.back().end(), row.begin() + static_cast<std::ptrdiff_t>(from),
                         row.begin() + static_cast<std::ptrdiff_t>(std::min(row.size(), from + 4000)));
    }
    QuantizeCase pieces = case_of_rows(rows, out);
    fill_inputs(pieces, 1);
    check_case(pieces, stream);
    QuantizeCase whole = case_of_rows({row}, out);
    fill_inputs(whole, 1);
    check_case(whole, stream);
  }
}

// All magnitudes, so that scales and inverses of every exponent occur.
TEST_F(CudaQuantize, TokensOfEveryExponent) {
  const CudaStream stream;
  for (const DType out : {DType::kI8, DType::kF8E4M3}) {
    QuantizeCase c;
    c.out = out;
    c.m = 255;
    c.k = 264;
    c.ldx = c.k;
    c.ldq = c.k;
    for (std::int64_t m = 0; m < c.m; ++m) {
      for (std::int64_t i = 0; i < c.k; ++i) {
        const std::uint64_t bits = random_bits(7, static_cast<std::uint64_t>(m * c.k + i));
        c.x.push_back(static_cast<std::uint16_t>((static_cast<std::uint64_t>(m) << 7) | (bits & 0x807f)));
      }
    }
    fill_inputs(c, 1);
    check_case(c, stream);
  }
}

TEST_F(CudaQuantize, SiluOfEveryGate) {
  const CudaStream stream;
  for (const bool ones : {true, false}) {
    // 16 rows of 4096 gates; one row that does not fit registers.
    for (const std::int64_t k : {std::int64_t{4096}, std::int64_t{65536}}) {
      QuantizeCase c;
      c.producer = Producer::kSiluMul;
      c.out = DType::kBF16;
      c.k = k;
      c.m = 65536 / k;
      c.ldx = 2 * k;
      c.ldq = k;
      c.x.resize(static_cast<std::size_t>(c.m * c.ldx));
      for (std::int64_t i = 0; i < 65536; ++i) {
        const auto at = static_cast<std::size_t>(i / k * c.ldx + i % k);
        c.x[at] = static_cast<std::uint16_t>(i);
        c.x[at + static_cast<std::size_t>(k)] =
            ones ? float_to_bf16(1.0f) : float_to_bf16(random_normal(3, static_cast<std::uint64_t>(i)));
      }
      fill_inputs(c, 1);
      check_case(c, stream);
    }
  }
}

// The same in products so large that another kernel runs; gates of all kinds in every row.
TEST_F(CudaQuantize, SiluOfManyElements) {
  const CudaStream stream;
  struct Shape {
    std::int64_t m;
    std::int64_t k;
    int lift;
  };
  constexpr Shape kShapes[] = {{8200, 1024, 0}, {2400, 3584, 4}, {520, 18944, 5}};
  for (const Shape& shape : kShapes) {
    for (const DType out : kOuts) {
      QuantizeCase c;
      c.producer = Producer::kSiluMul;
      c.out = out;
      c.k = shape.k;
      c.m = shape.m;
      c.lift = shape.lift;
      c.m_padded = (c.m + 63) / 64 * 64;
      c.ldx = 2 * c.k;
      c.ldq = (c.k_out() + 31) / 32 * 32;
      c.x.resize(static_cast<std::size_t>(c.m * c.ldx));
      for (std::int64_t i = 0; i < c.m * c.k; ++i) {
        const auto at = static_cast<std::size_t>(i / c.k * c.ldx + i % c.k);
        const auto counter = static_cast<std::uint64_t>(i);
        // Rows take turns: any 16 bits (every 16th row: NaN and infinity come often), finite ones, usual
        // ones.
        const auto any = static_cast<std::uint16_t>(random_bits(5, counter));
        const auto finite = static_cast<std::uint16_t>(any & 0xbfffu);
        const std::int64_t row = i / c.k;
        c.x[at] = row % 16 == 0 ? any : row % 2 == 0 ? finite : float_to_bf16(4 * random_normal(6, counter));
        c.x[at + static_cast<std::size_t>(c.k)] = float_to_bf16(random_normal(4, counter));
      }
      fill_inputs(c, 1);
      check_case(c, stream);
      if (HasFailure()) return;
    }
  }
}

// Norms of so many elements that blocks stay; rows of one warp and of many, with and without an update.
TEST_F(CudaQuantize, NormOfManyElements) {
  const CudaStream stream;
  struct Shape {
    std::int64_t m;
    std::int64_t k;
    int lift;
  };
  constexpr Shape kShapes[] = {
      {6000, 1000, 4}, {1700, 3584, 4}, {1100, 5120, 0}, {330, 18944, 5}, {260, 24576, 7}};
  Random random(21);
  for (const Shape& shape : kShapes) {
    for (const DType out : kOuts) {
      QuantizeCase c;
      c.producer = Producer::kRmsNorm;
      c.out = out;
      c.m = shape.m;
      c.k = shape.k;
      c.lift = shape.lift;
      c.ldx = c.k + 8;
      c.ldq = (c.k_out() + 31) / 32 * 32;
      c.m_padded = (c.m + 63) / 64 * 64;
      c.in_place = out == DType::kI8;
      c.writes_normed = out == DType::kF8E4M3;
      fill_inputs(c, random.bits());
      if (out != DType::kBF16) {
        for (std::int64_t i = 0; i < c.m * c.k; ++i)
          c.update.push_back(float_to_bf16(random_normal(22, static_cast<std::uint64_t>(i))));
      }
      check_case(c, stream);
      if (HasFailure()) return;
    }
  }
}

// Few and many rows: each length and number has its own launch.
TEST_F(CudaQuantize, FewAndManyRows) {
  const CudaStream stream;
  struct Shape {
    std::int64_t m;
    std::int64_t k;
  };
  constexpr Shape kShapes[] = {{128, 5120},  {64, 8960},  {130, 8960}, {513, 8960}, {20, 18944},
                               {513, 18944}, {600, 1536}, {600, 3584}, {513, 24576}};
  Random random(8);
  for (const Shape& shape : kShapes) {
    for (const Producer producer : kProducers) {
      for (const int lift : {0, 4, 7}) {
        QuantizeCase c;
        c.producer = producer;
        c.out = lift == 4 ? DType::kF8E4M3 : DType::kI8;
        c.m = shape.m;
        c.k = shape.k;
        c.lift = lift;
        c.ldx = producer == Producer::kSiluMul ? 2 * c.k : c.k;
        c.ldq = (c.k_out() + 15) / 16 * 16 + 64;
        c.m_padded = (c.m + 7) / 8 * 8;
        fill_inputs(c, random.bits());
        c.update.assign(c.x.begin(), c.x.begin() + static_cast<std::ptrdiff_t>(
                                                       producer == Producer::kRmsNorm ? c.m * c.k : 0));
        check_case(c, stream);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(CudaQuantize, NormOfSpecialRows) {
  const CudaStream stream;
  const std::vector<std::vector<float>> rows{{},
                                             {NAN, 1.0f},
                                             {INFINITY, 1.0f},
                                             {0x1p100f, 1.0f},
                                             {0x1p-133f, 0x1p-100f},
                                             {0x1p-70f, -0x1p-75f},
                                             {-0.0f, 3.0f}};
  for (const DType out : kOuts) {
    for (const float eps : {1e-5f, 0.0f}) {
      QuantizeCase c = case_of_rows(rows, out);
      c.k = c.ldx = 64;
      c.ldq = 96;
      c.m_padded = 16;
      std::vector<std::uint16_t> wide;
      for (std::size_t row = 0; row < rows.size(); ++row) {
        auto values = rows[row];
        values.resize(64, 0.0f);
        const auto bits = bf16_of(values);
        wide.insert(wide.end(), bits.begin(), bits.end());
      }
      c.x = wide;
      c.producer = Producer::kRmsNorm;
      c.eps = eps;
      fill_inputs(c, 11);
      check_case(c, stream);
    }
  }
}

TEST_F(CudaQuantize, NoTokensStillZeroesPadding) {
  const CudaStream stream;
  QuantizeCase c;
  c.k = 64;
  c.ldx = 64;
  c.ldq = 64;
  c.m_padded = 16;
  fill_inputs(c, 1);
  check_case(c, stream);
  c.m_padded = 0;
  check_case(c, stream);
}

TEST_F(CudaQuantize, RefusesWhatMeansNothing) {
  const CudaStream stream;
  DeviceBuffer buffer(4096, "test");
  cuda::QuantizeArgs good;
  good.m = 2;
  good.k = 64;
  good.ldx = 64;
  good.ldq = 64;
  good.x = buffer.data();
  good.q = buffer.data() + 1024;
  good.scale = buffer.as<float>() + 512;
  fill_device(buffer.data(), 0, buffer.size(), stream.handle());
  EXPECT_EQ(cuda::quantize(good, stream.handle()), 0);
  const auto refused = [&](auto change) {
    cuda::QuantizeArgs args = good;
    change(args);
    return cuda::quantize(args, stream.handle()) != 0;
  };
  EXPECT_TRUE(refused([](auto& a) { a.out = DType::kF32; }));
  EXPECT_TRUE(refused([](auto& a) { a.lift = 9; }));
  EXPECT_TRUE(refused([](auto& a) { a.lift = 1; }));
  EXPECT_TRUE(refused([](auto& a) { a.lift = 4; }));  // ldq is too small
  EXPECT_TRUE(refused([](auto& a) { a.ldq = 63; }));
  EXPECT_TRUE(refused([](auto& a) { a.ldx = 63; }));
  EXPECT_TRUE(refused([](auto& a) { a.m = -1; }));
  EXPECT_TRUE(refused([](auto& a) { a.scale = nullptr; }));
  EXPECT_TRUE(refused([](auto& a) { a.q = nullptr; }));
  EXPECT_TRUE(refused([](auto& a) { a.x = nullptr; }));
  EXPECT_TRUE(refused([](auto& a) { a.x = static_cast<const std::byte*>(a.x) + 1; }));
  EXPECT_TRUE(refused([](auto& a) { a.producer = Producer::kRmsNorm; }));  // no weight
  EXPECT_TRUE(refused([](auto& a) { a.producer = Producer::kSiluMul; }));  // ldx holds the gate alone
  stream.synchronize();
}

class CudaQuantizeLarge : public DeviceTest {};

// More than 2^31 elements in, and out: the last rows must be right.
TEST_F(CudaQuantizeLarge, Beyond32Bits) {
  constexpr std::int64_t kM = 131072;
  constexpr std::int64_t kK = 18944;
  constexpr int kN = 4;
  const std::int64_t k_out = Pattern::of_half_group(kN).lifted_k(kK);
  SLIDESPARSE_NEED_MEMORY(kM * kK * 2 + kM * k_out);
  const CudaStream stream;
  DeviceBuffer x(kM * kK * 2, "x");
  DeviceBuffer q(kM * k_out, "q");
  DeviceBuffer scale(kM * 4, "scale");
  cuda_check(cuda::fill_random(DType::kBF16, x.data(), kM * kK, 5, stream.handle()), "fill_random");
  cuda::QuantizeArgs args;
  args.out = DType::kF8E4M3;
  args.m = kM;
  args.k = kK;
  args.x = x.data();
  args.ldx = kK;
  args.lift = kN;
  args.q = q.data();
  args.ldq = k_out;
  args.scale = scale.as<float>();
  cuda_check(cuda::quantize(args, stream.handle()), "quantize");
  for (const std::int64_t row : {std::int64_t{0}, kM / 2, kM - 1}) {
    QuantizeCase c;
    c.out = args.out;
    c.m = 1;
    c.k = c.ldx = kK;
    c.ldq = k_out;
    c.lift = kN;
    c.x = on_host(x.as<std::uint16_t>() + row * kK, kK, stream);
    const QuantizeResult want = expected_result(c);
    EXPECT_EQ(on_host(q.as<std::uint8_t>() + row * k_out, k_out, stream), want.q) << row;
    EXPECT_EQ(on_host(scale.as<float>() + row, 1, stream), want.scale) << row;
  }
}

}  // namespace
}  // namespace slidesparse
