#include "kernels/cuda/qkv.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/numeric.h"
#include "core/random.h"
#include "kernels/cuda/device_test.h"
#include "ops/elementwise.h"

namespace slidesparse {
namespace {

using Bits = std::vector<std::uint16_t>;

struct QkvCase {
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t m = 0;
  std::int64_t pad = 0;  // columns of qkv behind v
  bool norm = false;
  DType cache = DType::kBF16;
  bool keys_in_place = false;
};

constexpr std::int64_t kPageSize = 16;
constexpr std::int64_t kPositions = 300;
constexpr float kEps = 1e-6f;

Bits random_bf16(Random& random, std::int64_t count, float size) {
  Bits bits(static_cast<std::size_t>(count));
  for (std::uint16_t& b : bits) b = float_to_bf16(size * random.normal());
  return bits;
}

// [m, heads, head_dim] beginning `column` columns into qkv.
TensorView heads_of(Bits& qkv, const QkvCase& c, std::int64_t column, std::int64_t heads) {
  TensorView view =
      TensorView::contiguous(static_cast<void*>(qkv.data() + column), DType::kBF16, {c.m, heads, c.head_dim});
  view.strides[0] = (c.heads + 2 * c.kv_heads) * c.head_dim + c.pad;
  return view;
}

bool is_bf16_nan(std::uint16_t bits) {
  return (bits & 0x7fffu) > 0x7f80u;
}

void check_qkv(const QkvCase& c, Random& random, const CudaStream& stream) {
  SCOPED_TRACE(fmt::format("{} + 2 * {} heads of {}, {} tokens, {} columns behind, norm {}, cache {}",
                           c.heads, c.kv_heads, c.head_dim, c.m, c.pad, c.norm, dtype_name(c.cache)));
  const std::int64_t ld = (c.heads + 2 * c.kv_heads) * c.head_dim + c.pad;
  const Bits qkv = random_bf16(random, c.m * ld, 2.0f);
  Bits q_norm = random_bf16(random, c.head_dim, 1.0f);
  Bits k_norm = random_bf16(random, c.head_dim, 1.0f);
  std::vector<float> table(static_cast<std::size_t>(kPositions * c.head_dim));
  for (std::int64_t p = 0; p < kPositions; ++p) {
    for (std::int64_t i = 0; i < c.head_dim / 2; ++i) {
      const double angle = static_cast<double>(p) *
                           std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(c.head_dim));
      table[static_cast<std::size_t>(p * c.head_dim + i)] = static_cast<float>(std::cos(angle));
      table[static_cast<std::size_t>(p * c.head_dim + c.head_dim / 2 + i)] =
          static_cast<float>(std::sin(angle));
    }
  }
  const std::int64_t pages = (c.m + kPageSize - 1) / kPageSize + 2;
  std::vector<std::int32_t> positions, slots;
  for (std::int64_t t = 0; t < c.m; ++t) {
    positions.push_back(static_cast<std::int32_t>(random.below(kPositions)));
    slots.push_back(static_cast<std::int32_t>((t * 5 + 3) % (pages * kPageSize)));  // no slot twice
  }
  if (c.m > 6) {
    slots[1] = -1;
    slots[4] = static_cast<std::int32_t>(pages * kPageSize);
    positions[5] = -1;
    positions[6] = static_cast<std::int32_t>(kPositions);
  }

  // The CPU's, a table row a token.
  Bits want = qkv;
  std::vector<float> angles;
  for (const std::int32_t position : positions) {
    const std::int64_t row = std::min<std::int64_t>(std::max(position, 0), kPositions - 1);
    angles.insert(angles.end(), table.begin() + row * c.head_dim, table.begin() + (row + 1) * c.head_dim);
  }
  const TensorView q = heads_of(want, c, 0, c.heads);
  const TensorView k = heads_of(want, c, c.heads * c.head_dim, c.kv_heads);
  if (c.norm) {
    const Shape shape{c.head_dim};
    head_rms_norm({}, q, TensorView::contiguous(static_cast<void*>(q_norm.data()), DType::kBF16, shape),
                  kEps);
    head_rms_norm({}, k, TensorView::contiguous(static_cast<void*>(k_norm.data()), DType::kBF16, shape),
                  kEps);
  }
  rotary({}, q, k, TensorView::contiguous(static_cast<void*>(angles.data()), DType::kF32, {c.m, c.head_dim}));

  const std::int64_t row = c.kv_heads * c.head_dim;
  const std::int64_t element = c.cache == DType::kBF16 ? 2 : 1;
  OnDevice d_table(table, stream);
  OnDevice d_q_norm(q_norm, stream);
  OnDevice d_k_norm(k_norm, stream);
  OnDevice d_positions(positions, stream);
  OnDevice d_slots(slots, stream);
  cuda::QkvArgs args;
  args.ld = ld;
  args.m = c.m;
  args.heads = c.heads;
  args.kv_heads = c.kv_heads;
  args.head_dim = c.head_dim;
  args.q_norm = c.norm ? d_q_norm.data() : nullptr;
  args.k_norm = c.norm ? d_k_norm.data() : nullptr;
  args.eps = kEps;
  args.rotary_table = d_table.data();
  args.max_positions = kPositions;
  args.positions = d_positions.data();
  args.slots = d_slots.data();
  args.keys_in_place = c.keys_in_place;
  args.cache.dtype = c.cache;
  args.cache.key_scale = 0.013f;
  args.cache.value_scale = 0.0037f;  // so small that some values are too large for it
  args.cache.pages = pages;
  args.cache.page_size = kPageSize;
  Bits got;
  std::vector<std::uint8_t> keys, values;
  for (int run = 0; run < 2; ++run) {
    OnDevice d_qkv(qkv, stream);
    OnDevice d_keys(poison<std::uint8_t>(pages * kPageSize * row * element), stream);
    OnDevice d_values(poison<std::uint8_t>(pages * kPageSize * row * element), stream);
    args.qkv = d_qkv.data();
    args.cache.keys = d_keys.data();
    args.cache.values = d_values.data();
    cuda_check(cuda::finish_qkv(args, stream.handle()), "finish_qkv");
    const Bits bits = on_host(d_qkv.data(), c.m * ld, stream);
    const auto k_bytes = on_host(d_keys.data(), pages * kPageSize * row * element, stream);
    const auto v_bytes = on_host(d_values.data(), pages * kPageSize * row * element, stream);
    if (run == 1) {
      ASSERT_TRUE(bits == got && k_bytes == keys && v_bytes == values) << "a second run gives other bits";
    }
    got = bits;
    keys = k_bytes;
    values = v_bytes;
  }

  std::vector<std::int64_t> owner(static_cast<std::size_t>(pages * kPageSize), -1);
  for (std::int64_t t = 0; t < c.m; ++t) {
    const std::int32_t slot = slots[static_cast<std::size_t>(t)];
    if (slot >= 0 && slot < pages * kPageSize) owner[static_cast<std::size_t>(slot)] = t;
    const std::int32_t position = positions[static_cast<std::size_t>(t)];
    for (std::int64_t j = 0; j < ld; ++j) {
      const auto at = static_cast<std::size_t>(t * ld + j);
      const std::int64_t turned = c.heads + (c.keys_in_place ? c.kv_heads : 0);
      if (j >= turned * c.head_dim) {
        ASSERT_EQ(got[at], qkv[at]) << "touched: token " << t << ", column " << j;
      } else if (position < 0 || position >= kPositions) {
        ASSERT_TRUE(is_bf16_nan(got[at])) << "token " << t << ", column " << j << " has no position";
      } else {
        ASSERT_TRUE(same_bf16(got[at], want[at])) << "q or k: token " << t << ", column " << j;
      }
    }
  }
  const auto same_code = [&](const std::vector<std::uint8_t>& bytes, std::int64_t at, std::uint16_t wanted,
                             bool nan, float scale) {
    if (c.cache == DType::kBF16) {
      std::uint16_t bits;
      std::memcpy(&bits, bytes.data() + 2 * at, 2);
      return nan ? is_bf16_nan(bits) : same_bf16(bits, wanted);
    }
    const std::uint8_t code = bytes[static_cast<std::size_t>(at)];
    return nan ? (code & 0x7fu) == 0x7fu : code == float_to_e4m3(bf16_to_float(wanted) / scale);
  };
  for (std::size_t slot = 0; slot < owner.size(); ++slot) {
    for (std::int64_t j = 0; j < row; ++j) {
      const std::int64_t at = static_cast<std::int64_t>(slot) * row + j;
      if (owner[slot] < 0) {
        for (std::int64_t e = 0; e < element; ++e) {
          const auto byte = static_cast<std::size_t>(at * element + e);
          ASSERT_TRUE(keys[byte] == 0xff && values[byte] == 0xff) << "touched: slot " << slot << ", " << j;
        }
        continue;
      }
      const std::int32_t position = positions[static_cast<std::size_t>(owner[slot])];
      const auto from = static_cast<std::size_t>(owner[slot] * ld + c.heads * c.head_dim + j);
      ASSERT_TRUE(same_code(keys, at, want[from], position < 0 || position >= kPositions, 0.013f))
          << "key: slot " << slot << ", " << j;
      ASSERT_TRUE(same_code(values, at, qkv[from + static_cast<std::size_t>(row)], false, 0.0037f))
          << "value: slot " << slot << ", " << j;
    }
  }
}

class CudaQkv : public DeviceTest {};

TEST_F(CudaQkv, EqualsNormRotaryAndWrite) {
  const CudaStream stream;
  Random random(1);
  const std::vector<QkvCase> shapes = {{32, 8, 128}, {28, 4, 128}, {14, 2, 64}, {9, 3, 64}, {16, 16, 128},
                                       {1, 1, 16},   {5, 1, 48},   {3, 3, 80},  {4, 2, 256}};
  for (QkvCase c : shapes) {
    for (const std::int64_t m : {1, 7, 65}) {
      for (const bool norm : {false, true}) {
        for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
          c.m = m;
          c.pad = random.below(2) * 24;
          c.norm = norm;
          c.cache = cache;
          c.keys_in_place = random.below(2) == 1;
          check_qkv(c, random, stream);
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_F(CudaQkv, RefusesWhatMeansNothing) {
  const CudaStream stream;
  DeviceBuffer buffer(65536, "test");
  fill_device(buffer.data(), 0, buffer.size(), stream.handle());
  cuda::QkvArgs good;
  good.qkv = buffer.data();
  good.ld = 128;
  good.m = 2;
  good.heads = 2;
  good.kv_heads = 1;
  good.head_dim = 32;
  good.rotary_table = buffer.as<float>() + 1024;
  good.max_positions = 4;
  good.positions = buffer.as<std::int32_t>() + 2048;
  good.slots = buffer.as<std::int32_t>() + 2050;
  good.cache.keys = buffer.data() + 16384;
  good.cache.values = buffer.data() + 32768;
  good.cache.pages = 4;
  good.cache.page_size = 16;
  EXPECT_EQ(cuda::finish_qkv(good, stream.handle()), 0);
  const auto refused = [&](auto change) {
    cuda::QkvArgs args = good;
    change(args);
    return cuda::finish_qkv(args, stream.handle()) != 0;
  };
  EXPECT_TRUE(refused([](auto& a) { a.ld = 120; }));
  EXPECT_TRUE(refused([](auto& a) { a.ld = 129; }));
  EXPECT_TRUE(refused([](auto& a) { a.head_dim = 24; }));
  EXPECT_TRUE(refused([](auto& a) { a.head_dim = 272; }));
  EXPECT_TRUE(refused([](auto& a) { a.q_norm = a.qkv; }));
  EXPECT_TRUE(refused([](auto& a) { a.qkv = static_cast<std::byte*>(a.qkv) + 2; }));
  EXPECT_TRUE(refused([](auto& a) { a.cache.dtype = DType::kI8; }));
  EXPECT_TRUE(refused([](auto& a) { a.slots = nullptr; }));
  EXPECT_FALSE(refused([](auto& a) { a.m = 0; }));
  stream.synchronize();
}

}  // namespace
}  // namespace slidesparse
