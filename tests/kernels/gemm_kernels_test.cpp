#include "kernels/cpu/gemm_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <vector>

#include "core/buffer.h"
#include "core/numeric.h"
#include "core/random.h"
#include "kernels/cpu/gemm_finish.h"
#include "slidesparse/format/codes.h"

namespace slidesparse {
namespace {

constexpr std::array kEverySet{Isa::kPortable, Isa::kAvx2, Isa::kAvx512};

// One row of `groups` groups whose values count up from 1, with the given codes.
struct Row {
  Row(Pattern pattern, const std::vector<int>& codes) {
    const auto groups = static_cast<std::int64_t>(codes.size());
    for (std::int64_t i = 0; i < groups * pattern.kept(); ++i)
      values.push_back(static_cast<std::uint8_t>(1 + i % 100));
    packed.resize(static_cast<std::size_t>((groups * pattern.code_bits() + 7) / 8));
    for (std::int64_t g = 0; g < groups; ++g) {
      for (int bit = 0; bit < pattern.code_bits(); ++bit) {
        const std::int64_t at = g * pattern.code_bits() + bit;
        if ((codes[static_cast<std::size_t>(g)] >> bit & 1) != 0)
          packed[static_cast<std::size_t>(at / 8)] |= static_cast<std::uint8_t>(1u << at % 8);
      }
    }
    rows.values = values.data();
    rows.value_stride = static_cast<std::int64_t>(values.size());
    rows.codes = packed.data();
    rows.code_stride = static_cast<std::int64_t>(packed.size());
    rows.half_group = pattern.half_group();
    rows.packed_values = rows.value_stride;
    rows.packed_blocks = (groups + block_groups(rows.half_group) - 1) / block_groups(rows.half_group);
  }
  std::vector<std::uint8_t> values;
  std::vector<std::uint8_t> packed;
  GemmRows rows;
};

// Every code of every pattern, at every place of a block: codes run through all values with a stride that is
// prime to their number.
TEST(GemmExpand, PutsEveryValueIntoItsLane) {
  for (int n = 2; n <= 8; ++n) {
    const Pattern pattern = Pattern::of_half_group(n);
    for (int start = 0; start < code_count(pattern); ++start) {
      std::vector<int> codes;
      const int count = 19 * block_groups(n) / 2 + 1;
      codes.reserve(static_cast<std::size_t>(count));
      for (int g = 0; g < count; ++g) codes.push_back((start + g) % code_count(pattern));
      const Row row(pattern, codes);
      std::vector<std::uint8_t> expected(static_cast<std::size_t>(row.rows.packed_blocks * kBlockSlots), 0);
      std::size_t value = 0;
      for (std::size_t g = 0; g < codes.size(); ++g) {
        const auto groups = static_cast<std::size_t>(block_groups(n));
        for (int lane = 0; lane < pattern.group(); ++lane) {
          if ((kept_mask(pattern, codes[g]) >> lane & 1) == 0) continue;
          expected[g / groups * kBlockSlots + g % groups * static_cast<std::size_t>(pattern.group()) +
                   static_cast<std::size_t>(lane)] = row.values[value++];
        }
      }
      for (const Isa isa : kEverySet) {
        if (isa > detected_isa()) continue;
        const GemmKernels& kernels = gemm_kernels(isa, DType::kI8);
        Buffer panel(expected.size());
        std::memset(panel.data(), 0x55, panel.size());
        kernels.expand(row.rows, 0, 0, row.rows.packed_blocks, panel.data());
        std::vector<std::uint8_t> got(panel.as<std::uint8_t>(), panel.as<std::uint8_t>() + expected.size());
        for (auto& byte : got) byte = static_cast<std::uint8_t>(byte - kernels.weight_offset);
        ASSERT_EQ(got, expected) << isa_name(isa) << " " << pattern.to_string() << " codes from " << start;
      }
    }
  }
}

// All 256 values, through weights and through activations, against each other: x = 1 picks one.
TEST(GemmExpand, WidensEveryE4M3ValueExactly) {
  for (const Isa isa : kEverySet) {
    if (isa > detected_isa()) continue;
    const GemmKernels& kernels = gemm_kernels(isa, DType::kF8E4M3);
    std::vector<std::uint8_t> values(256);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint8_t>(i);
    GemmRows rows;
    rows.values = values.data();
    rows.value_stride = rows.dense_lanes = 256;
    rows.dense_blocks = 4;
    Buffer w(512);
    Buffer x(512);
    kernels.expand(rows, 0, 0, 4, w.data());
    kernels.widen(values.data(), 4, x.as<std::uint16_t>());
    EXPECT_EQ(std::memcmp(w.data(), x.data(), 512), 0) << isa_name(isa);
    std::vector<std::uint16_t> got(w.as<std::uint16_t>(), w.as<std::uint16_t>() + 256);
    std::vector<std::uint16_t> expected;
    expected.reserve(values.size());
    for (const std::uint8_t value : values) expected.push_back(float_to_bf16(e4m3_to_float(value)));
    for (auto first = got.begin(), wanted = expected.begin(); first != got.end(); first += 64, wanted += 64) {
      std::sort(first, first + 64);  // a set may shuffle slots within a block
      std::sort(wanted, wanted + 64);
    }
    // NaN keeps its sign in some sets only.
    for (auto* list : {&got, &expected}) {
      for (auto& bits : *list) bits = (bits & 0x7fff) == 0x7fc0 ? 0x7fc0 : bits;
    }
    for (auto first = got.begin(), wanted = expected.begin(); first != got.end(); first += 64, wanted += 64) {
      std::sort(first, first + 64);
      std::sort(wanted, wanted + 64);
    }
    EXPECT_EQ(got, expected) << isa_name(isa);
  }
}

TEST(GemmTile, AddsExtremeIntegersExactly) {
  // -128 * -128 over the longest row that 32 bits hold a half of.
  constexpr std::int64_t kBlocks = 1023;
  for (const Isa isa : kEverySet) {
    if (isa > detected_isa()) continue;
    const GemmKernels& kernels = gemm_kernels(isa, DType::kI8);
    Buffer w(kBlocks * kBlockSlots);
    Buffer x(kBlocks * kBlockSlots);
    std::memset(w.data(), kernels.weight_offset == 0 ? 0x80 : 0, w.size());
    std::memset(x.data(), 0x80, x.size());
    std::int32_t sum = 7;
    kernels.tile(w.data(), w.size(), 1, x.data(), x.size(), 1, kBlocks, true, &sum, 1);
    const std::int64_t offset = std::int64_t{kernels.weight_offset} * -128 * kBlocks * kBlockSlots;
    EXPECT_EQ(sum - offset, std::int64_t{128} * 128 * kBlocks * kBlockSlots) << isa_name(isa);
  }
}

TEST(GemmFinish, GivesTheSameBitsWithEverySet) {
  constexpr std::int64_t kCount = 1000;
  Random random(4);
  std::vector<float> sums, scale, bias;
  for (std::int64_t i = 0; i < kCount; ++i) {
    sums.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random.bits())));  // any bits at all
    scale.push_back(random.normal());
    bias.push_back(random.normal());
  }
  sums[3] = std::numeric_limits<float>::infinity();
  sums[4] = std::bit_cast<float>(0x3f808000u);  // between two BF16 numbers
  sums[5] = std::bit_cast<float>(0x00018000u);  // subnormal, between two
  GemmFinish finish;
  for (const bool scaled : {false, true}) {
    finish.w_scale = scaled ? scale.data() : nullptr;
    finish.bias = scaled ? bias.data() : nullptr;
    finish.x_scale = 0.37f;
    std::vector<std::uint16_t> expected;
    for (std::size_t i = 0; i < kCount; ++i) {
      float value = sums[i];
      if (scaled) value = value * finish.x_scale * scale[i];
      if (scaled) value = value + bias[i];
      expected.push_back(float_to_bf16(value));
    }
    for (const Isa isa : kEverySet) {
      if (isa > detected_isa()) continue;
      std::vector<std::uint16_t> got(kCount);
      gemm_finish(isa, finish, sums.data(), kCount, got.data());
      for (std::size_t i = 0; i < kCount; ++i) {
        const bool both_nan = (got[i] & 0x7fff) > 0x7f80 && (expected[i] & 0x7fff) > 0x7f80;
        ASSERT_TRUE(both_nan || got[i] == expected[i]) << isa_name(isa) << " at " << i << " of " << sums[i];
      }
    }
  }
}

}  // namespace
}  // namespace slidesparse
