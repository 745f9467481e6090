#include "kernels/cuda/quantize_case.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/numeric.h"
#include "core/random.h"
#include "kernels/cpu/ops_rows.h"
#include "kernels/cuda/device_test.h"
#include "quant/activations.h"
#include "slidesparse/format/slide.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kGuardRows = 2;

std::vector<std::uint16_t> random_bf16(std::int64_t count, std::uint64_t seed) {
  std::vector<std::uint16_t> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = float_to_bf16(random_normal(seed, i));
  return values;
}

std::int64_t input_width(const QuantizeCase& c) {
  return c.producer == cuda::Producer::kSiluMul ? 2 * c.k : c.k;
}

// The BF16 values that are quantised, [m, k]; fills residual and normed.
std::vector<std::uint16_t> produced(const QuantizeCase& c, QuantizeResult& result) {
  const kernels::RowKernels& rows = kernels::row_kernels();
  std::vector<std::uint16_t> values(static_cast<std::size_t>(c.m * c.k));
  for (std::int64_t m = 0; m < c.m; ++m) {
    const std::uint16_t* x = c.x.data() + m * c.ldx;
    std::uint16_t* to = values.data() + m * c.k;
    if (c.producer == cuda::Producer::kSiluMul) {
      rows.silu_mul(x, x + c.k, c.k, to);
      continue;
    }
    std::memcpy(to, x, static_cast<std::size_t>(2 * c.k));
    if (c.producer == cuda::Producer::kNone) continue;
    if (!c.update.empty()) rows.add(to, c.update.data() + m * c.k, c.k);
    result.residual.insert(result.residual.end(), to, to + c.k);
    rows.rms_norm(to, c.weight.data(), c.k, c.eps, to);
  }
  if (c.producer == cuda::Producer::kRmsNorm) result.normed = values;
  return values;
}

template <typename T>
void expect_same(const std::vector<T>& got, const std::vector<T>& want, std::int64_t width,
                 const std::string& what, bool (*same)(T, T)) {
  ASSERT_GE(got.size(), want.size()) << what;
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (same(got[i], want[i])) continue;
    const auto at = static_cast<std::int64_t>(i);
    FAIL() << what << ": row " << at / width << ", element " << at % width << ": " << +got[i]
           << " instead of " << +want[i];
  }
  for (std::size_t i = want.size(); i < got.size(); ++i) {
    std::array<std::uint8_t, sizeof(T)> bytes, untouched;
    std::memcpy(bytes.data(), &got[i], sizeof(T));
    untouched.fill(0xff);
    ASSERT_EQ(bytes, untouched) << what << ": written behind its end, element " << i - want.size();
  }
}

bool same_byte(std::uint8_t a, std::uint8_t b) {
  return a == b;
}
bool same_scale(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

std::vector<std::uint16_t> words_of(const std::vector<std::uint8_t>& bytes) {
  std::vector<std::uint16_t> words(bytes.size() / 2);
  std::memcpy(words.data(), bytes.data(), 2 * words.size());
  return words;
}

QuantizeResult run_on_device(const QuantizeCase& c, const CudaStream& stream) {
  const bool norm = c.producer == cuda::Producer::kRmsNorm;
  OnDevice x(c.x, stream, c.offset);
  OnDevice update(c.update, stream, c.offset);
  OnDevice weight(c.weight, stream, c.offset);
  OnDevice perm(c.perm, stream, c.offset / 4 * 4);
  const std::int64_t guarded = (c.rows() + kGuardRows) * c.ldq * c.element_bytes();
  OnDevice q(poison<std::uint8_t>(guarded), stream, c.offset);
  OnDevice scale(poison<float>(c.rows() + kGuardRows), stream, c.offset / 4 * 4);
  OnDevice residual(poison<std::uint16_t>((c.m + kGuardRows) * c.k), stream, c.offset);
  OnDevice normed(poison<std::uint16_t>((c.m + kGuardRows) * c.k), stream, c.offset);
  cuda::QuantizeArgs args;
  args.producer = c.producer;
  args.out = c.out;
  args.m = c.m;
  args.k = c.k;
  args.x = x.data();
  args.ldx = c.ldx;
  if (norm) {
    args.residual_out = c.in_place && c.ldx == c.k ? x.data() : residual.data();
    args.update = c.update.empty() ? nullptr : update.data();
    args.norm_weight = weight.data();
    args.eps = c.eps;
    args.normed_out = c.writes_normed ? normed.data() : nullptr;
  }
  args.lift = c.lift;
  args.perm = c.perm.empty() ? nullptr : perm.data();
  args.q = q.data();
  args.ldq = c.ldq;
  args.scale = c.out == DType::kBF16 ? nullptr : scale.data();
  args.m_padded = c.m_padded;
  cuda_check(cuda::quantize(args, stream.handle()), "quantize", c.describe());
  stream.synchronize();
  QuantizeResult result;
  result.q = on_host(q.data(), guarded, stream);
  if (args.scale != nullptr) result.scale = on_host(scale.data(), c.rows() + kGuardRows, stream);
  if (norm) {
    const bool in_x = args.residual_out == x.data();
    result.residual = on_host(static_cast<std::uint16_t*>(args.residual_out),
                              (c.m + (in_x ? 0 : kGuardRows)) * c.k, stream);
    if (c.writes_normed) result.normed = on_host(normed.data(), (c.m + kGuardRows) * c.k, stream);
  }
  return result;
}

}  // namespace

std::int64_t QuantizeCase::k_out() const {
  return lift == 0 ? k : Pattern::of_half_group(lift).lifted_k(k);
}

std::string QuantizeCase::describe() const {
  return fmt::format(
      "producer {} to {}, [{}, {}], ldx {}, lift {}{}, ldq {}, padded to {} rows, pointers {} bytes off{}",
      static_cast<int>(producer), dtype_name(out), m, k, ldx, lift, perm.empty() ? "" : ", gathered", ldq,
      m_padded, offset, update.empty() ? "" : ", with update");
}

void fill_inputs(QuantizeCase& c, std::uint64_t seed) {
  if (c.x.empty()) c.x = random_bf16(c.m * c.ldx, seed);
  if (c.ldx < input_width(c)) ADD_FAILURE() << "ldx " << c.ldx << " of " << input_width(c);
  if (c.weight.empty()) c.weight = random_bf16(c.k, seed + 1);
}

QuantizeResult expected_result(const QuantizeCase& c) {
  QuantizeResult result;
  const std::vector<std::uint16_t> values = produced(c, result);
  const auto element = static_cast<std::size_t>(c.element_bytes());
  std::vector<std::uint8_t> codes(values.size() * element);
  if (c.out == DType::kBF16) {
    if (!codes.empty()) std::memcpy(codes.data(), values.data(), codes.size());
  } else {
    result.scale.assign(static_cast<std::size_t>(c.rows()), 0.0f);
    quantise_tokens(c.out, values.data(), c.m, c.k, c.k, codes.data(), result.scale.data());
  }
  const std::int64_t width = c.k_out();
  std::vector<std::uint8_t> rearranged(static_cast<std::size_t>(c.m * width) * element);
  if (c.lift != 0) {
    lift_rows(Pattern::of_half_group(c.lift), c.out, codes.data(), c.m, c.k, c.k, rearranged.data());
  } else if (!c.perm.empty()) {
    for (std::int64_t m = 0; m < c.m; ++m) {
      for (std::int64_t i = 0; i < c.k; ++i) {
        const auto from = static_cast<std::size_t>(m * c.k + c.perm[static_cast<std::size_t>(i)]) * element;
        std::memcpy(rearranged.data() + static_cast<std::size_t>(m * c.k + i) * element, codes.data() + from,
                    element);
      }
    }
  } else {
    rearranged = codes;
  }
  result.q.assign(static_cast<std::size_t>(c.rows() * c.ldq) * element, 0);
  for (std::int64_t m = 0; m < c.m && width > 0; ++m) {
    std::memcpy(result.q.data() + static_cast<std::size_t>(m * c.ldq) * element,
                rearranged.data() + static_cast<std::size_t>(m * width) * element,
                static_cast<std::size_t>(width) * element);
  }
  return result;
}

void check_case(const QuantizeCase& c, const CudaStream& stream) {
  SCOPED_TRACE(c.describe());
  const QuantizeResult want = expected_result(c);
  const QuantizeResult got = run_on_device(c, stream);
  if (c.out == DType::kBF16) {
    expect_same<std::uint16_t>(words_of(got.q), words_of(want.q), c.ldq, "values", same_bf16);
  } else {
    expect_same<std::uint8_t>(got.q, want.q, c.ldq, "codes", same_byte);
    expect_same<float>(got.scale, want.scale, 1, "scale", same_scale);
  }
  if (c.producer == cuda::Producer::kRmsNorm) {
    expect_same<std::uint16_t>(got.residual, want.residual, c.k, "residual", same_bf16);
    if (c.writes_normed) expect_same<std::uint16_t>(got.normed, want.normed, c.k, "normed", same_bf16);
  }
  const QuantizeResult again = run_on_device(c, stream);
  EXPECT_EQ(again.q, got.q) << "a second run gives other bits";
  EXPECT_EQ(again.residual, got.residual);
  EXPECT_EQ(again.normed, got.normed);
}

}  // namespace slidesparse
