#include "kernels/cuda/tail.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/numeric.h"
#include "core/random.h"
#include "kernels/cuda/device_test.h"
#include "kernels/cuda/fill.h"

namespace slidesparse {
namespace {

std::size_t size_of(DType dtype) {
  return dtype == DType::kBF16 ? 2 : 4;
}

// The accumulator as FP32.
float value_of(DType dtype, const std::uint8_t* bytes) {
  if (dtype == DType::kBF16) {
    std::uint16_t bits;
    std::memcpy(&bits, bytes, 2);
    return bf16_to_float(bits);
  }
  std::uint32_t bits;
  std::memcpy(&bits, bytes, 4);
  return dtype == DType::kF32 ? std::bit_cast<float>(bits)
                              : static_cast<float>(std::bit_cast<std::int32_t>(bits));
}

float finished(float acc, const float* x_scale, const float* w_scale, const float* bias) {
  float value = acc * (x_scale == nullptr ? 1.0f : *x_scale);
  value = value * (w_scale == nullptr ? 1.0f : *w_scale);
  return bias == nullptr ? value : value + *bias;
}

bool same_result(DType dtype, float want, const std::uint8_t* got) {
  if (dtype == DType::kBF16) {
    std::uint16_t bits;
    std::memcpy(&bits, got, 2);
    return same_bf16(bits, float_to_bf16(want));
  }
  float value;
  std::memcpy(&value, got, 4);
  return std::bit_cast<std::uint32_t>(value) == std::bit_cast<std::uint32_t>(want) ||
         (std::isnan(value) && std::isnan(want));
}

struct TailCase {
  DType acc = DType::kI32;
  DType out = DType::kBF16;
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t ldacc = 0;
  std::int64_t ldout = 0;
  bool x_scale = true;
  bool w_scale = true;
  bool bias = true;
  std::int64_t offset = 0;
};

void check_tail(const TailCase& c, Random& random, const CudaStream& stream) {
  SCOPED_TRACE(fmt::format("{} to {}, [{}, {}], ldacc {}, ldout {}, scales {} {}, bias {}, {} bytes off",
                           dtype_name(c.acc), dtype_name(c.out), c.m, c.n, c.ldacc, c.ldout, c.x_scale,
                           c.w_scale, c.bias, c.offset));
  std::vector<std::uint8_t> acc(static_cast<std::size_t>(c.m * c.ldacc) * size_of(c.acc));
  for (std::size_t i = 0; i < acc.size(); i += size_of(c.acc)) {
    std::uint32_t bits = static_cast<std::uint32_t>(random.bits());
    if (c.acc == DType::kF32) bits = std::bit_cast<std::uint32_t>(random.normal() * 1000.0f);
    if (c.acc == DType::kBF16) bits = float_to_bf16(random.normal());
    if (random.below(64) == 0) bits = c.acc == DType::kI32 ? 0x80000000u : 0x7fc07fc0u;  // the edge, or NaN
    std::memcpy(acc.data() + i, &bits, size_of(c.acc));
  }
  std::vector<float> x_scale(static_cast<std::size_t>(c.m));
  for (float& scale : x_scale) scale = random.uniform();
  x_scale[0] = 0.0f;
  if (c.m > 2) x_scale[2] = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> w_scale(static_cast<std::size_t>(c.n));
  std::vector<float> bias(static_cast<std::size_t>(c.n));
  for (float& scale : w_scale) scale = random.uniform() * 0.01f;
  for (float& value : bias) value = random.normal();
  bias[0] = -0.0f;

  OnDevice d_acc(
      acc, stream,
      c.offset / static_cast<std::int64_t>(size_of(c.acc)) * static_cast<std::int64_t>(size_of(c.acc)));
  OnDevice d_x(x_scale, stream);
  OnDevice d_w(w_scale, stream);
  OnDevice d_bias(bias, stream);
  const auto size = static_cast<std::int64_t>(size_of(c.out));
  OnDevice d_out(poison<std::uint8_t>((c.m + 2) * c.ldout * size), stream, c.offset / size * size);
  cuda::TailArgs args;
  args.acc_dtype = c.acc;
  args.acc = d_acc.data();
  args.ldacc = c.ldacc;
  args.m = c.m;
  args.n = c.n;
  args.x_scale = c.x_scale ? d_x.data() : nullptr;
  args.w_scale = c.w_scale ? d_w.data() : nullptr;
  args.bias = c.bias ? d_bias.data() : nullptr;
  args.out_dtype = c.out;
  args.out = d_out.data();
  args.ldout = c.ldout;
  std::vector<std::uint8_t> first;
  for (int run = 0; run < 2; ++run) {
    cuda_check(cuda::apply_tail(args, stream.handle()), "apply_tail");
    const auto got = on_host(d_out.data(), (c.m + 2) * c.ldout * size, stream);
    if (run == 1) {
      ASSERT_EQ(got, first) << "a second run gives other bits";
    }
    first = got;
  }
  for (std::int64_t m = 0; m < c.m + 2; ++m) {
    for (std::int64_t n = 0; n < c.ldout; ++n) {
      const std::uint8_t* got = first.data() + (m * c.ldout + n) * size;
      if (m >= c.m || n >= c.n) {
        for (std::int64_t i = 0; i < size; ++i)
          ASSERT_EQ(got[i], 0xff) << "touched: row " << m << ", column " << n;
        continue;
      }
      const float sum =
          value_of(c.acc, acc.data() + static_cast<std::size_t>(m * c.ldacc + n) * size_of(c.acc));
      const float want = finished(sum, c.x_scale ? &x_scale[static_cast<std::size_t>(m)] : nullptr,
                                  c.w_scale ? &w_scale[static_cast<std::size_t>(n)] : nullptr,
                                  c.bias ? &bias[static_cast<std::size_t>(n)] : nullptr);
      ASSERT_TRUE(same_result(c.out, want, got)) << "row " << m << ", column " << n << ", wanted " << want;
    }
  }
}

class CudaTail : public DeviceTest {};

TEST_F(CudaTail, EqualsThreeRoundedSteps) {
  const CudaStream stream;
  Random random(1);
  for (const DType acc : {DType::kI32, DType::kF32, DType::kBF16}) {
    for (const DType out : {DType::kBF16, DType::kF32}) {
      for (const std::int64_t m : {1, 3, 8, 17, 64, 257}) {
        for (const std::int64_t n : {1, 3, 4, 7, 512, 513, 576, 1540}) {
          if (m * n > 100000) continue;
          TailCase c;
          c.acc = acc;
          c.out = out;
          c.m = m;
          c.n = n;
          c.ldacc = n + std::vector<std::int64_t>{0, 4, 1}[static_cast<std::size_t>(random.below(3))];
          c.ldout = n + std::vector<std::int64_t>{0, 8, 3}[static_cast<std::size_t>(random.below(3))];
          c.x_scale = random.below(4) != 0;
          c.w_scale = random.below(4) != 0;
          c.bias = random.below(2) != 0;
          c.offset = random.below(3) == 0 ? 4 : 0;
          check_tail(c, random, stream);
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_F(CudaTail, RefusesWhatMeansNothing) {
  const CudaStream stream;
  DeviceBuffer buffer(4096, "test");
  cuda::TailArgs good;
  good.acc = buffer.data();
  good.ldacc = 16;
  good.m = 2;
  good.n = 16;
  good.out = buffer.data() + 2048;
  good.ldout = 16;
  fill_device(buffer.data(), 0, buffer.size(), stream.handle());
  EXPECT_EQ(cuda::apply_tail(good, stream.handle()), 0);
  const auto refused = [&](auto change) {
    cuda::TailArgs args = good;
    change(args);
    return cuda::apply_tail(args, stream.handle()) != 0;
  };
  EXPECT_TRUE(refused([](auto& a) { a.acc_dtype = DType::kI8; }));
  EXPECT_TRUE(refused([](auto& a) { a.out_dtype = DType::kI32; }));
  EXPECT_TRUE(refused([](auto& a) { a.ldout = 15; }));
  EXPECT_TRUE(refused([](auto& a) { a.ldacc = 15; }));
  EXPECT_TRUE(refused([](auto& a) { a.out = nullptr; }));
  EXPECT_TRUE(refused([](auto& a) { a.out = static_cast<std::byte*>(a.out) + 1; }));
  EXPECT_FALSE(refused([](auto& a) { a.m = 0; }));
  stream.synchronize();
}

class CudaTailLarge : public DeviceTest {};

TEST_F(CudaTailLarge, Beyond32Bits) {
  constexpr std::int64_t kM = 65536;
  constexpr std::int64_t kN = 37888;
  SLIDESPARSE_NEED_MEMORY(kM * kN * 6);
  const CudaStream stream;
  Random random(2);
  DeviceBuffer acc(kM * kN * 4, "acc");
  DeviceBuffer out(kM * kN * 2, "out");
  cuda_check(cuda::fill_random(DType::kI32, acc.data(), kM * kN, 3, stream.handle()), "fill_random");
  std::vector<float> x_scale(kM);
  std::vector<float> w_scale(kN);
  std::vector<float> bias(kN);
  for (float& value : x_scale) value = random.uniform();
  for (float& value : w_scale) value = random.uniform();
  for (float& value : bias) value = random.normal();
  OnDevice d_x(x_scale, stream);
  OnDevice d_w(w_scale, stream);
  OnDevice d_bias(bias, stream);
  fill_device(out.data(), 0xff, out.size(), stream.handle());
  cuda::TailArgs args;
  args.acc = acc.data();
  args.ldacc = kN;
  args.m = kM;
  args.n = kN;
  args.x_scale = d_x.data();
  args.w_scale = d_w.data();
  args.bias = d_bias.data();
  args.out = out.data();
  args.ldout = kN;
  cuda_check(cuda::apply_tail(args, stream.handle()), "apply_tail");
  for (const std::int64_t row : {std::int64_t{0}, std::int64_t{56680}, kM - 2, kM - 1}) {
    const auto sums = on_host(acc.as<std::int32_t>() + row * kN, kN, stream);
    const auto got = on_host(out.as<std::uint16_t>() + row * kN, kN, stream);
    for (std::size_t n = 0; n < got.size(); ++n) {
      const float want = finished(static_cast<float>(sums[n]), &x_scale[static_cast<std::size_t>(row)],
                                  &w_scale[n], &bias[n]);
      ASSERT_EQ(got[n], float_to_bf16(want)) << "row " << row << ", column " << n;
    }
  }
}

}  // namespace
}  // namespace slidesparse
