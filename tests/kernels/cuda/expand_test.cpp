#include "kernels/cuda/expand.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/numeric.h"
#include "core/random.h"
#include "kernels/cuda/device_test.h"
#include "kernels/cuda/fill.h"
#include "slidesparse/format/pack.h"
#include "slidesparse/format/slide.h"

namespace slidesparse {
namespace {

// A packed matrix and what it was made from.
struct Packed {
  Pattern pattern;
  DType dtype = DType::kI8;
  std::int64_t rows = 0;
  std::int64_t k = 0;
  std::vector<std::uint8_t> dense;
  std::vector<std::uint8_t> values;
  std::vector<std::uint8_t> codes;

  std::int64_t element() const { return dtype == DType::kBF16 ? 2 : 1; }
  PackedView view() const { return {pattern, dtype, rows, k, values.data(), codes.data()}; }
};

void pack(Packed& p) {
  p.values.resize(static_cast<std::size_t>(p.rows * p.pattern.values_per_row(p.k) * p.element()));
  p.codes.resize(static_cast<std::size_t>(p.rows * p.pattern.code_bytes_per_row(p.k)));
  pack_rows(p.pattern, p.dtype, p.dense.data(), p.rows, p.k, p.k, p.values.data(), p.codes.data());
}

Packed random_packed(Pattern pattern, DType dtype, std::int64_t rows, std::int64_t k, Random& random) {
  Packed p{pattern, dtype, rows, k, {}, {}, {}};
  p.dense.resize(static_cast<std::size_t>(rows * k * p.element()));
  for (auto& byte : p.dense) byte = static_cast<std::uint8_t>(1 + random.below(120));
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t group = 0; group < pattern.groups(k); ++group) {
      const std::int64_t a = random.below(pattern.group());
      const std::int64_t b = (a + 1 + random.below(pattern.group() - 1)) % pattern.group();
      for (const std::int64_t lane : {a, b}) {
        const std::int64_t at = group * pattern.group() + lane;
        if (at < k)
          std::memset(p.dense.data() + (row * k + at) * p.element(), 0,
                      static_cast<std::size_t>(p.element()));
      }
    }
  }
  pack(p);
  return p;
}

// Rows of `width` elements brought to [out_rows, ld], zero outside.
std::vector<std::uint8_t> padded(const std::vector<std::uint8_t>& rows, std::int64_t n, std::int64_t width,
                                 std::int64_t out_rows, std::int64_t ld, std::int64_t element) {
  std::vector<std::uint8_t> out(static_cast<std::size_t>(out_rows * ld * element));
  for (std::int64_t row = 0; row < n && width > 0; ++row) {
    std::memcpy(out.data() + row * ld * element, rows.data() + row * width * element,
                static_cast<std::size_t>(width * element));
  }
  return out;
}

void expect_bytes(const std::vector<std::uint8_t>& got, const std::vector<std::uint8_t>& want,
                  std::int64_t row_bytes, const char* what) {
  ASSERT_GE(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    const int wanted = i < want.size() ? want[i] : 0xff;
    ASSERT_EQ(got[i], wanted) << what << ": row " << static_cast<std::int64_t>(i) / row_bytes << ", byte "
                              << static_cast<std::int64_t>(i) % row_bytes
                              << (i < want.size() ? "" : ", behind the end");
  }
}

// All three forms against the CPU's, with `extra` lanes and rows more than needed, `offset` bytes off.
void check_forms(const Packed& p, std::int64_t extra, std::int64_t offset, const CudaStream& stream) {
  SCOPED_TRACE(fmt::format("{} {} [{}, {}], {} extra, {} bytes off", p.pattern.to_string(),
                           dtype_name(p.dtype), p.rows, p.k, extra, offset));
  OnDevice values(p.values, stream, offset);
  OnDevice codes(p.codes, stream, offset);
  cuda::PackedRows rows;
  rows.values = values.data();
  rows.codes = codes.data();
  rows.element_bytes = static_cast<int>(p.element());
  rows.half_group = p.pattern.half_group();
  rows.n = p.rows;
  rows.k = p.k;
  const std::int64_t out_rows = p.rows + extra;
  const std::int64_t slid_width = p.pattern.lifted_k(p.k);
  std::vector<std::uint8_t> metadata(
      static_cast<std::size_t>(p.rows * slide_metadata_bytes_per_row(p.pattern, p.k)));
  slide_metadata(p.view(), metadata.data());
  std::vector<std::uint8_t> slid(static_cast<std::size_t>(p.rows * slid_width * p.element()));
  expand_slid(p.pattern, p.dtype, p.rows, p.k, p.values.data(), metadata.data(), slid.data());

  const auto check = [&](const std::vector<std::uint8_t>& want_rows, std::int64_t width, std::int64_t element,
                         std::int64_t n_out, const char* what, auto expand) {
    const std::int64_t ld = width + extra;
    OnDevice out(poison<std::uint8_t>((n_out + 2) * ld * element), stream, offset);
    cuda_check(expand(out.data(), ld), what);
    const auto got = on_host(out.data(), (n_out + 2) * ld * element, stream);
    expect_bytes(got, padded(want_rows, p.rows, width, n_out, ld, element), ld * element, what);
  };
  check(p.dense, p.k, p.element(), out_rows, "expand_dense", [&](std::uint8_t* out, std::int64_t ld) {
    return cuda::expand_dense(rows, out, ld, out_rows, stream.handle());
  });
  check(slid, slid_width, p.element(), out_rows, "expand_slid", [&](std::uint8_t* out, std::int64_t ld) {
    return cuda::expand_slid(rows, out, ld, out_rows, stream.handle());
  });
  check(metadata, slide_metadata_bytes_per_row(p.pattern, p.k), 1, p.rows, "slide_metadata",
        [&](std::uint8_t* out, std::int64_t ld) {
          return cuda::slide_metadata(rows, out, ld, stream.handle());
        });
}

class CudaExpand : public DeviceTest {};

// Every mask that 2:4, 4:6 and 6:8 allow is one row; once as a whole group, once with the last lanes cut off.
TEST_F(CudaExpand, EveryMask) {
  const CudaStream stream;
  for (const int half : {2, 3, 4}) {
    const Pattern pattern = Pattern::of_half_group(half);
    for (const DType dtype : {DType::kI8, DType::kBF16}) {
      for (int cut = 0; cut < 3; ++cut) {
        Packed p{pattern, dtype, 0, pattern.group() * 2 - cut, {}, {}, {}};
        for (std::uint32_t mask = 0; mask < 1u << pattern.group(); ++mask) {
          if (std::popcount(mask) > pattern.kept()) continue;
          ++p.rows;
          for (std::int64_t lane = 0; lane < p.k; ++lane) {
            const bool set = (mask >> (lane % pattern.group()) & 1u) != 0;
            for (std::int64_t i = 0; i < p.element(); ++i) {
              p.dense.push_back(set ? static_cast<std::uint8_t>(lane * 2 + i + 1) : std::uint8_t{0});
            }
          }
        }
        pack(p);
        check_forms(p, cut, 0, stream);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(CudaExpand, RandomMatrices) {
  const CudaStream stream;
  Random random(5);
  for (int half = 2; half <= 8; ++half) {
    for (const DType dtype : {DType::kI8, DType::kF8E4M3, DType::kBF16}) {
      for (const std::int64_t k : {1, 7, 8, 250, 576, 1536, 3584, 8960}) {
        const std::int64_t rows = k < 1000 ? 33 : 5;
        const Packed p = random_packed(Pattern::of_half_group(half), dtype, rows, k, random);
        const std::int64_t extra =
            std::vector<std::int64_t>{0, 16, 3}[static_cast<std::size_t>(random.below(3))];
        check_forms(p, extra, random.below(2) * 2, stream);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(CudaExpand, PadDense) {
  const CudaStream stream;
  Random random(6);
  for (const std::int64_t element : {1, 2}) {
    for (const std::int64_t k : {1, 7, 8, 30, 576, 3584, 8962}) {
      for (const std::int64_t extra : {0, 1, 2, 16}) {
        for (const std::int64_t offset : {0, 2, 4}) {
          constexpr std::int64_t kRows = 5;
          const std::int64_t ld = k + extra;
          std::vector<std::uint8_t> from(static_cast<std::size_t>(kRows * k * element));
          for (auto& byte : from) byte = static_cast<std::uint8_t>(random.bits());
          OnDevice d_from(from, stream, offset);
          OnDevice out(poison<std::uint8_t>((kRows + extra + 2) * ld * element), stream, offset);
          cuda_check(cuda::pad_dense(d_from.data(), static_cast<int>(element), kRows, k, out.data(), ld,
                                     kRows + extra, stream.handle()),
                     "pad_dense");
          expect_bytes(on_host(out.data(), (kRows + extra + 2) * ld * element, stream),
                       padded(from, kRows, k, kRows + extra, ld, element), ld * element, "pad_dense");
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_F(CudaExpand, WidenVector) {
  const CudaStream stream;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const std::int64_t element = dtype == DType::kF32 ? 4 : 2;
    // All numbers of 16 bits.
    constexpr std::int64_t kCount = 65536;
    std::vector<std::uint8_t> from(static_cast<std::size_t>(kCount * element));
    std::vector<float> want;
    for (std::int64_t i = 0; i < kCount; ++i) {
      const auto bits = static_cast<std::uint32_t>(i * (element == 4 ? 65521 : 1));
      std::memcpy(from.data() + i * element, &bits, static_cast<std::size_t>(element));
      want.push_back(dtype == DType::kF32   ? std::bit_cast<float>(bits)
                     : dtype == DType::kF16 ? f16_to_float(static_cast<std::uint16_t>(bits))
                                            : bf16_to_float(static_cast<std::uint16_t>(bits)));
    }
    OnDevice d_from(from, stream);
    constexpr std::int64_t kPadded = kCount + 100;
    OnDevice out(poison<float>(kPadded + 8), stream);
    cuda_check(cuda::widen_vector(d_from.data(), static_cast<int>(dtype), kCount, out.data(), kPadded,
                                  stream.handle()),
               "widen_vector");
    const auto got = on_host(out.data(), kPadded + 8, stream);
    for (std::int64_t i = 0; i < kPadded + 8; ++i) {
      const float value = got[static_cast<std::size_t>(i)];
      const auto bits = std::bit_cast<std::uint32_t>(value);
      if (i >= kPadded) {
        ASSERT_EQ(bits, 0xffffffffu) << i;
      } else if (i >= kCount) {
        ASSERT_EQ(bits, 0u) << i;
      } else if (std::isnan(want[static_cast<std::size_t>(i)])) {
        ASSERT_TRUE(std::isnan(value)) << i;
      } else {
        ASSERT_EQ(bits, std::bit_cast<std::uint32_t>(want[static_cast<std::size_t>(i)])) << i;
      }
    }
  }
}

TEST_F(CudaExpand, RefusesWhatMeansNothing) {
  const CudaStream stream;
  DeviceBuffer buffer(4096, "test");
  fill_device(buffer.data(), 0, buffer.size(), stream.handle());
  cuda::PackedRows good;
  good.values = buffer.data();
  good.codes = buffer.as<std::uint8_t>() + 1024;
  good.half_group = 4;
  good.n = 2;
  good.k = 64;
  void* const out = buffer.data() + 2048;
  EXPECT_EQ(cuda::expand_dense(good, out, 64, 2, stream.handle()), 0);
  EXPECT_NE(cuda::expand_dense(good, out, 63, 2, stream.handle()), 0);
  EXPECT_NE(cuda::expand_dense(good, out, 64, 1, stream.handle()), 0);
  EXPECT_NE(cuda::expand_slid(good, out, 95, 2, stream.handle()), 0);
  EXPECT_EQ(cuda::expand_slid(good, out, 96, 2, stream.handle()), 0);
  EXPECT_NE(cuda::slide_metadata(good, static_cast<std::uint8_t*>(out), 11, stream.handle()), 0);
  EXPECT_NE(cuda::expand_dense(good, nullptr, 64, 2, stream.handle()), 0);
  good.half_group = 9;
  EXPECT_NE(cuda::expand_dense(good, out, 64, 2, stream.handle()), 0);
  good.half_group = 4;
  good.element_bytes = 4;
  EXPECT_NE(cuda::expand_dense(good, out, 64, 2, stream.handle()), 0);
  EXPECT_NE(cuda::widen_vector(out, static_cast<int>(DType::kI8), 4, buffer.as<float>(), 4, stream.handle()),
            0);
  EXPECT_NE(cuda::pad_dense(out, 3, 1, 4, buffer.data(), 4, 1, stream.handle()), 0);
  stream.synchronize();
}

class CudaExpandLarge : public DeviceTest {};

// More than 2^31 lanes: every row has the same codes, values are random.
TEST_F(CudaExpandLarge, Beyond32Bits) {
  constexpr std::int64_t kRows = 152064;
  constexpr std::int64_t kK = 14336;
  const Pattern pattern = Pattern::of_half_group(4);
  const std::int64_t width = pattern.values_per_row(kK);
  const std::int64_t code_bytes = pattern.code_bytes_per_row(kK);
  SLIDESPARSE_NEED_MEMORY(kRows * (kK + width + code_bytes));
  const CudaStream stream;
  Random random(9);
  const Packed one = random_packed(pattern, DType::kI8, 1, kK, random);
  DeviceBuffer values(kRows * width, "values");
  DeviceBuffer codes(kRows * code_bytes, "codes");
  DeviceBuffer dense(kRows * kK, "dense");
  cuda_check(cuda::fill_random(DType::kI8, values.data(), values.size(), 4, stream.handle()), "fill_random");
  copy_to_device(codes.data(), one.codes.data(), code_bytes, stream.handle());
  for (std::int64_t done = 1; done < kRows; done *= 2) {
    const std::int64_t rows = std::min(done, kRows - done);
    copy_on_device(codes.data() + done * code_bytes, codes.data(), rows * code_bytes, stream.handle());
  }
  fill_device(dense.data(), 0xff, dense.size(), stream.handle());
  cuda::PackedRows rows;
  rows.values = values.data();
  rows.codes = codes.as<std::uint8_t>();
  rows.half_group = 4;
  rows.n = kRows;
  rows.k = kK;
  cuda_check(cuda::expand_dense(rows, dense.data(), kK, kRows, stream.handle()), "expand_dense");
  for (const std::int64_t row : {std::int64_t{0}, kRows - 2, kRows - 1}) {
    const auto row_values = on_host(values.as<std::uint8_t>() + row * width, width, stream);
    std::vector<std::uint8_t> want(static_cast<std::size_t>(kK));
    unpack_rows({pattern, DType::kI8, 1, kK, row_values.data(), one.codes.data()}, 0, 1, want.data(), kK);
    EXPECT_EQ(on_host(dense.as<std::uint8_t>() + row * kK, kK, stream), want) << row;
  }
}

}  // namespace
}  // namespace slidesparse
