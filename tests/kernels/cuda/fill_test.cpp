#include "kernels/cuda/fill.h"

#include <gtest/gtest.h>

#include <bit>
#include <vector>

#include "core/numeric.h"
#include "core/random.h"
#include "kernels/cuda/device_test.h"

namespace slidesparse {
namespace {

class CudaFill : public DeviceTest {};

TEST_F(CudaFill, IsTheGeneratorOfTheCpu) {
  const CudaStream stream;
  constexpr std::uint64_t kSeed = 42;
  constexpr std::int64_t kCount = 100003;
  DeviceBuffer buffer(kCount * 4, "test");
  const auto fill = [&](DType dtype) {
    cuda_check(cuda::fill_random(dtype, buffer.data(), kCount, kSeed, stream.handle()), "fill_random");
  };
  fill(DType::kBF16);
  const auto bf16 = on_host(buffer.as<std::uint16_t>(), kCount, stream);
  fill(DType::kF32);
  const auto f32 = on_host(buffer.as<float>(), kCount, stream);
  fill(DType::kF8E4M3);
  const auto f8 = on_host(buffer.as<std::uint8_t>(), kCount, stream);
  fill(DType::kI8);
  const auto i8 = on_host(buffer.as<std::uint8_t>(), kCount, stream);
  fill(DType::kI32);
  const auto i32 = on_host(buffer.as<std::int32_t>(), kCount, stream);
  for (std::size_t i = 0; i < kCount; ++i) {
    const float normal = random_normal(kSeed, i);
    ASSERT_EQ(bf16[i], float_to_bf16(normal)) << i;
    ASSERT_EQ(std::bit_cast<std::uint32_t>(f32[i]), std::bit_cast<std::uint32_t>(normal)) << i;
    ASSERT_EQ(f8[i], float_to_e4m3(normal * 128.0f)) << i;
    ASSERT_NE(f8[i] & 0x7f, 0x7f) << i;
    ASSERT_EQ(i8[i], random_bits(kSeed, i / 8) >> (8 * (i % 8)) & 0xff) << i;
    ASSERT_EQ(i32[i], static_cast<std::int32_t>(random_bits(kSeed, i) >> 43) - (1 << 20)) << i;
  }
}

TEST_F(CudaFill, RefusesOtherTypes) {
  const CudaStream stream;
  DeviceBuffer buffer(64, "test");
  EXPECT_NE(cuda::fill_random(DType::kBool, buffer.data(), 8, 1, stream.handle()), 0);
  EXPECT_NE(cuda::fill_random(DType::kI8, nullptr, 8, 1, stream.handle()), 0);
  EXPECT_EQ(cuda::fill_random(DType::kI8, nullptr, 0, 1, stream.handle()), 0);
}

}  // namespace
}  // namespace slidesparse
