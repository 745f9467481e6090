#include "quant/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "core/cpu.h"
#include "core/numeric.h"
#include "core/random.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using ::testing::HasSubstr;

std::vector<Isa> isas() {
  std::vector<Isa> list;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (isa <= detected_isa()) list.push_back(isa);
  }
  return list;
}

// Restores the processor's own instruction set at the end of a test.
class WeightQuant : public ::testing::Test {
 protected:
  void TearDown() override { force_isa(std::nullopt); }
};

struct Golden {
  DType source;
  DType target;
  std::int64_t rows;
  std::int64_t k;
  std::string weights;
  std::string scales;
  std::string codes;
};

std::vector<Golden> read_golden() {
  std::ifstream file(SLIDESPARSE_TEST_DATA "/quant/golden.bin", std::ios::binary);
  const std::string data((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::size_t at = 4;
  const auto take = [&](void* to, std::size_t bytes) {
    if (at + bytes > data.size()) throw std::out_of_range("golden.bin is too short");
    std::memcpy(to, data.data() + at, bytes);
    at += bytes;
  };
  std::uint32_t count = 0;
  take(&count, 4);
  std::vector<Golden> cases;
  for (std::uint32_t i = 0; i < count; ++i) {
    std::uint8_t head[4];
    std::uint32_t rows = 0, k = 0;
    take(head, 4);
    take(&rows, 4);
    take(&k, 4);
    const DType sources[] = {DType::kBF16, DType::kF16, DType::kF32};
    Golden golden{sources[head[0]], head[1] == 0 ? DType::kI8 : DType::kF8E4M3, rows, k, {}, {}, {}};
    golden.weights.resize(rows * k * dtype_size(golden.source));
    golden.scales.resize(rows * dtype_size(golden.source));
    golden.codes.resize(rows * k);
    take(golden.weights.data(), golden.weights.size());
    take(golden.scales.data(), golden.scales.size());
    take(golden.codes.data(), golden.codes.size());
    cases.push_back(std::move(golden));
  }
  EXPECT_EQ(at, data.size());
  return cases;
}

TEST_F(WeightQuant, EqualsCompressedTensorsBitForBit) {
  const std::vector<Golden> cases = read_golden();
  ASSERT_EQ(cases.size(), 6u);
  for (const Isa isa : isas()) {
    force_isa(isa);
    for (const Golden& golden : cases) {
      SCOPED_TRACE(std::string(isa_name(isa)) + " " + std::string(dtype_name(golden.source)) + " -> " +
                   std::string(dtype_name(golden.target)));
      std::string codes(golden.codes.size(), '?');
      std::string scales(golden.scales.size(), '?');
      quantise_weight_rows(golden.source, golden.weights.data(), golden.rows, golden.k, golden.k,
                           golden.target, codes.data(), scales.data());
      const std::size_t scale_size = dtype_size(golden.source);
      for (std::int64_t r = 0; r < golden.rows; ++r) {
        const auto row = static_cast<std::size_t>(r);
        EXPECT_EQ(scales.substr(row * scale_size, scale_size),
                  golden.scales.substr(row * scale_size, scale_size))
            << "scale of row " << r;
        for (std::int64_t c = 0; c < golden.k; ++c) {
          const auto i = static_cast<std::size_t>(r * golden.k + c);
          ASSERT_EQ(static_cast<int>(codes[i]), static_cast<int>(golden.codes[i]))
              << "row " << r << " column " << c;
        }
      }
    }
  }
}

TEST_F(WeightQuant, GoldenVectorsReachTheCorners) {
  bool lowest = false, negative_zero = false, tiny_scale = false;
  for (const Golden& golden : read_golden()) {
    for (const char code : golden.codes) {
      lowest |= golden.target == DType::kI8 && code == -128;
      negative_zero |= golden.target == DType::kF8E4M3 && code == static_cast<char>(0x80);
    }
    if (golden.source != DType::kBF16) continue;
    const auto* scales = reinterpret_cast<const std::uint16_t*>(golden.scales.data());
    for (std::int64_t r = 0; r < golden.rows; ++r) tiny_scale |= scales[r] == 1;
  }
  EXPECT_TRUE(lowest && negative_zero && tiny_scale);
}

// Every BF16 weight against a few scales: the vector loops against the portable ones.
TEST_F(WeightQuant, AllInstructionSetsGiveTheSameBits) {
  std::vector<std::uint16_t> row;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    if ((bits & 0x7fff) <= 0x4300) row.push_back(static_cast<std::uint16_t>(bits));  // up to 128.0
  }
  const auto k = static_cast<std::int64_t>(row.size());
  for (const DType source : {DType::kBF16, DType::kF16}) {
    for (const DType target : {DType::kI8, DType::kF8E4M3}) {
      std::vector<std::uint8_t> want(row.size()), got(row.size());
      std::uint16_t want_scale = 0, got_scale = 0;
      force_isa(Isa::kPortable);
      quantise_weight_rows(source, row.data(), 1, k, k, target, want.data(), &want_scale);
      for (const Isa isa : isas()) {
        force_isa(isa);
        quantise_weight_rows(source, row.data(), 1, k, k, target, got.data(), &got_scale);
        EXPECT_EQ(got_scale, want_scale);
        EXPECT_TRUE(got == want) << isa_name(isa);
      }
    }
  }
}

TEST_F(WeightQuant, ShortRowsAndStridesWriteNothingElse) {
  for (const Isa isa : isas()) {
    force_isa(isa);
    for (std::int64_t k = 1; k < 70; ++k) {
      const std::int64_t ld = k + 3;
      std::vector<std::uint16_t> w(static_cast<std::size_t>(3 * ld), 0x7fc0);  // NaN between the rows
      for (std::int64_t r = 0; r < 3; ++r) {
        for (std::int64_t c = 0; c < k; ++c) {
          w[static_cast<std::size_t>(r * ld + c)] =
              float_to_bf16(random_normal(7, static_cast<std::uint64_t>(c * 3 + r)));
        }
      }
      std::vector<std::int8_t> codes(static_cast<std::size_t>(3 * k + 1), 99);
      std::vector<std::uint16_t> scales(4, 0x1234);
      quantise_weight_rows(DType::kBF16, w.data(), 3, k, ld, DType::kI8, codes.data(), scales.data());
      EXPECT_EQ(codes.back(), 99);
      EXPECT_EQ(scales.back(), 0x1234);
      for (std::int64_t r = 0; r < 3; ++r) {
        int most = 0;
        for (std::int64_t c = 0; c < k; ++c)
          most = std::max(most, std::abs(int{codes[static_cast<std::size_t>(r * k + c)]}));
        EXPECT_GE(most, 127);
      }
    }
  }
}

TEST_F(WeightQuant, RowsWithoutScaleGetEpsAndAreCounted) {
  const std::vector<std::uint16_t> w = {0, 0x8000, 0x3f80, 0, 0x0001, 0x8001};
  std::vector<std::int8_t> codes(6, 9);
  std::vector<std::uint16_t> scales(3);
  const auto report =
      quantise_weight_rows(DType::kBF16, w.data(), 3, 2, 2, DType::kI8, codes.data(), scales.data());
  EXPECT_EQ(report.zero_rows, 2);
  EXPECT_EQ(bf16_to_float(scales[0]), 0x1p-7f);
  EXPECT_EQ(bf16_to_float(scales[2]), 0x1p-7f);
  EXPECT_EQ(codes, (std::vector<std::int8_t>{0, 0, 127, 0, 0, 0}));
}

TEST_F(WeightQuant, RefusesNanAndInfinityByPlace) {
  for (const Isa isa : isas()) {
    force_isa(isa);
    for (const auto& [dtype, nan, infinity] : {std::tuple{DType::kBF16, 0xffc0u, 0x7f80u},
                                               {DType::kF16, 0x7e00u, 0xfc00u},
                                               {DType::kF32, 0x7fc00000u, 0xff800000u}}) {
      for (const bool is_nan : {true, false}) {
        const std::uint32_t bits = is_nan ? nan : infinity;
        std::vector<std::byte> w(2 * 40 * 4);
        std::memcpy(w.data() + (40 + 33) * dtype_size(dtype), &bits, dtype_size(dtype));
        std::vector<std::byte> codes(80), scales(8);
        try {
          quantise_weight_rows(dtype, w.data(), 2, 40, 40, DType::kI8, codes.data(), scales.data(), 100,
                               "a.weight");
          ADD_FAILURE() << "accepted " << dtype_name(dtype);
        } catch (const Error& error) {
          EXPECT_EQ(error.kind(), ErrorKind::kInput);
          EXPECT_THAT(error.what(), HasSubstr("a.weight: the weight at row 101, column 33 is "));
          EXPECT_THAT(error.what(), HasSubstr(is_nan ? "NaN" : "infinite"));
        }
      }
    }
  }
}

TEST_F(WeightQuant, DequantiseMultipliesInFloat) {
  const std::int8_t int8[] = {-128, 127, 3, 0};
  const std::uint8_t fp8[] = {0x7e, 0xfe, 0x01, 0x80};  // 448, -448, 2^-9, -0
  const float scales[] = {0.5f, 3.0f};
  std::vector<float> out(4);
  dequantise_weight_rows(DType::kI8, int8, DType::kF32, scales, 2, 2, out.data());
  EXPECT_EQ(out, (std::vector<float>{-64.0f, 63.5f, 9.0f, 0.0f}));
  dequantise_weight_rows(DType::kF8E4M3, fp8, DType::kF32, scales, 2, 2, out.data());
  EXPECT_EQ(out, (std::vector<float>{224.0f, -224.0f, 3.0f * 0x1p-9f, 0.0f}));
}

TEST_F(WeightQuant, ScalesFromFilesAreChecked) {
  const std::int8_t codes[] = {1, 0, 0, 0};
  const auto check = [&](float a, float b) {
    const float scales[] = {a, b};
    validate_weight_scales(DType::kF32, scales, DType::kI8, codes, 2, 2, "x.weight_scale");
  };
  EXPECT_NO_THROW(check(1.0f, 0.0f));
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {-1.0f, -0.0f, infinity, -infinity, std::nanf("")}) {
    EXPECT_THROW(check(1.0f, bad), Error) << bad;
  }
  try {
    check(0.0f, 1.0f);
    ADD_FAILURE() << "accepted a zero scale";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("x.weight_scale: the scale of row 0 is zero but its codes are not"));
  }
  // FP8's negative zero is a zero code.
  const std::uint8_t fp8[] = {0x80, 0x00};
  const float zero = 0.0f;
  EXPECT_NO_THROW(validate_weight_scales(DType::kF32, &zero, DType::kF8E4M3, fp8, 1, 2, "x"));
}

}  // namespace
}  // namespace slidesparse
