#include "ops/elementwise.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/fail.h"
#include "core/fast_exp.h"
#include "core/parallel.h"
#include "kernels/cpu/ops_rows.h"
#include "ops/checks.h"

namespace slidesparse {
namespace {

// Elements of work below which starting other threads costs more than it brings (a few microseconds of one
// core).
constexpr std::int64_t kSerialElements = 16384;
// Terms of a divergence that are made at once, so that the loop vectorises.
constexpr std::int64_t kKlBlock = 256;

std::int64_t row_grain(std::int64_t width) {
  return std::max<std::int64_t>(1, kSerialElements / std::max<std::int64_t>(1, width));
}

std::uint16_t* row_of(const TensorView& x, std::int64_t row) {
  return x.as<std::uint16_t>() + row * x.stride(0);
}

void check_norm(const char* op, const TensorView& x, const TensorView& weight, const TensorView& out) {
  check_matrix(op, x, DType::kBF16);
  check_matrix(op, out, DType::kBF16);
  require(
      x.shape == out.shape && weight.dtype == DType::kBF16 && weight.rank() == 1 && weight.dim(0) == x.dim(1),
      "{}: x {}, weight {}, out {}", op, x.shape.to_string(), weight.shape.to_string(),
      out.shape.to_string());
}

}  // namespace

void rms_norm(const Context& context, const TensorView& x, const TensorView& weight, double eps,
              const TensorView& out) {
  check_device("rms_norm", context);
  check_norm("rms_norm", x, weight, out);
  const std::int64_t width = x.dim(1);
  const auto kernel = kernels::row_kernels().rms_norm;
  parallel_for(x.dim(0), row_grain(width), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m) {
      kernel(row_of(x, m), weight.as<std::uint16_t>(), width, static_cast<float>(eps), row_of(out, m));
    }
  });
}

void add_rms_norm(const Context& context, const TensorView& residual, const TensorView& x,
                  const TensorView& weight, double eps, const TensorView& out) {
  check_device("add_rms_norm", context);
  check_norm("add_rms_norm", residual, weight, out);
  check_matrix("add_rms_norm", x, DType::kBF16);
  require(x.shape == residual.shape, "add_rms_norm: residual {}, x {}", residual.shape.to_string(),
          x.shape.to_string());
  const std::int64_t width = x.dim(1);
  const kernels::RowKernels& rows = kernels::row_kernels();
  parallel_for(x.dim(0), row_grain(width), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m) {
      rows.add(row_of(residual, m), row_of(x, m), width);
      rows.rms_norm(row_of(residual, m), weight.as<std::uint16_t>(), width, static_cast<float>(eps),
                    row_of(out, m));
    }
  });
}

void add(const Context& context, const TensorView& x, const TensorView& y) {
  check_device("add", context);
  check_matrix("add", x, DType::kBF16);
  check_matrix("add", y, DType::kBF16);
  require(x.shape == y.shape, "add: x {}, y {}", x.shape.to_string(), y.shape.to_string());
  const auto kernel = kernels::row_kernels().add;
  parallel_for(x.dim(0), row_grain(x.dim(1)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m) kernel(row_of(x, m), row_of(y, m), x.dim(1));
  });
}

void silu_mul(const Context& context, const TensorView& gate_up, const TensorView& out) {
  check_device("silu_mul", context);
  check_matrix("silu_mul", gate_up, DType::kBF16);
  check_matrix("silu_mul", out, DType::kBF16);
  const std::int64_t width = out.dim(1);
  require(gate_up.dim(0) == out.dim(0) && gate_up.dim(1) == 2 * width, "silu_mul: gate_up {}, out {}",
          gate_up.shape.to_string(), out.shape.to_string());
  const auto kernel = kernels::row_kernels().silu_mul;
  parallel_for(out.dim(0), row_grain(4 * width), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m) {
      kernel(row_of(gate_up, m), row_of(gate_up, m) + width, width, row_of(out, m));
    }
  });
}

void embed(const Context& context, const TensorView& table, std::span<const std::int32_t> tokens,
           const TensorView& out) {
  check_device("embed", context);
  check_matrix("embed", table, DType::kBF16);
  check_matrix("embed", out, DType::kBF16);
  require(out.dim(0) == static_cast<std::int64_t>(tokens.size()) && out.dim(1) == table.dim(1),
          "embed: table {}, {} tokens, out {}", table.shape.to_string(), tokens.size(),
          out.shape.to_string());
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= table.dim(0)) {
      fail_input("token id {} is not in the vocabulary of {} tokens", token, table.dim(0));
    }
  }
  const std::int64_t width = table.dim(1);
  // Bytes, not elements: a mapped table may stand at an odd address.
  const auto* base = table.as<const std::byte>();
  parallel_for(out.dim(0), row_grain(width), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      std::memcpy(row_of(out, t), base + 2 * tokens[static_cast<std::size_t>(t)] * table.stride(0),
                  static_cast<std::size_t>(2 * width));
    }
  });
}

void head_rms_norm(const Context& context, const TensorView& x, const TensorView& weight, double eps) {
  check_device("head_rms_norm", context);
  check_heads("head_rms_norm", x);
  require(weight.dtype == DType::kBF16 && weight.rank() == 1 && weight.dim(0) == x.dim(2),
          "head_rms_norm: x {}, weight {}", x.shape.to_string(), weight.shape.to_string());
  const auto kernel = kernels::row_kernels().rms_norm;
  parallel_for(x.dim(0), row_grain(x.dim(1) * x.dim(2)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m) {
      for (std::int64_t h = 0; h < x.dim(1); ++h) {
        std::uint16_t* head = row_of(x, m) + h * x.stride(1);
        kernel(head, weight.as<std::uint16_t>(), x.dim(2), static_cast<float>(eps), head);
      }
    }
  });
}

void rotary_table(const Context& context, std::span<const std::int32_t> positions,
                  std::span<const float> inverse_frequencies, const TensorView& table) {
  check_device("rotary_table", context);
  const auto half = static_cast<std::int64_t>(inverse_frequencies.size());
  require(table.dtype == DType::kF32 && table.is_contiguous() && table.rank() == 2 &&
              table.dim(0) == static_cast<std::int64_t>(positions.size()) && table.dim(1) == 2 * half,
          "rotary_table: {} positions, {} frequencies, table {}", positions.size(), half,
          table.shape.to_string());
  parallel_for(table.dim(0), row_grain(32 * half), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m) {
      float* row = table.as<float>() + m * 2 * half;
      const auto position = static_cast<float>(positions[static_cast<std::size_t>(m)]);
      for (std::int64_t i = 0; i < half; ++i) {
        const float angle = position * inverse_frequencies[static_cast<std::size_t>(i)];
        row[i] = std::cos(angle);
        row[half + i] = std::sin(angle);
      }
    }
  });
}

void rotary(const Context& context, const TensorView& q, const TensorView& k, const TensorView& table) {
  check_device("rotary", context);
  check_heads("rotary", q);
  check_heads("rotary", k);
  const std::int64_t half = q.dim(2) / 2;
  require(k.dim(0) == q.dim(0) && k.dim(2) == q.dim(2) && table.rank() == 2 && table.dim(0) == q.dim(0) &&
              table.dim(1) == q.dim(2) && q.dim(2) % 2 == 0,
          "rotary: q {}, k {}, table {}", q.shape.to_string(), k.shape.to_string(), table.shape.to_string());
  const auto kernel = kernels::row_kernels().rotate;
  const auto rotate_heads = [&](const TensorView& x, std::int64_t m, const float* angles) {
    for (std::int64_t h = 0; h < x.dim(1); ++h)
      kernel(row_of(x, m) + h * x.stride(1), angles, angles + half, half);
  };
  parallel_for(q.dim(0), row_grain((q.dim(1) + k.dim(1)) * q.dim(2)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t m = begin; m < end; ++m) {
                   const float* angles = table.as<const float>() + m * 2 * half;
                   rotate_heads(q, m, angles);
                   rotate_heads(k, m, angles);
                 }
               });
}

void token_log_probabilities(const Context& context, const TensorView& logits,
                             std::span<const std::int32_t> targets, std::span<double> out) {
  check_device("token_log_probabilities", context);
  check_matrix("token_log_probabilities", logits, DType::kF32);
  require(logits.dim(0) == static_cast<std::int64_t>(targets.size()) && targets.size() == out.size(),
          "token_log_probabilities: logits {}, {} targets, {} results", logits.shape.to_string(),
          targets.size(), out.size());
  const auto kernel = kernels::row_kernels().log_sum_exp;
  parallel_for(logits.dim(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m) {
      const float* row = logits.as<const float>() + m * logits.stride(0);
      const std::int32_t target = targets[static_cast<std::size_t>(m)];
      require(target >= 0 && target < logits.dim(1), "target {} of {} tokens", target, logits.dim(1));
      out[static_cast<std::size_t>(m)] = static_cast<double>(row[target]) - kernel(row, logits.dim(1));
    }
  });
}

void kl_divergences(const Context& context, const TensorView& reference, const TensorView& logits,
                    std::span<double> out) {
  check_device("kl_divergences", context);
  check_matrix("kl_divergences", reference, DType::kF32);
  check_matrix("kl_divergences", logits, DType::kF32);
  require(reference.shape == logits.shape && reference.dim(0) == static_cast<std::int64_t>(out.size()),
          "kl_divergences: reference {}, logits {}, {} results", reference.shape.to_string(),
          logits.shape.to_string(), out.size());
  const auto log_sum_exp = kernels::row_kernels().log_sum_exp;
  const std::int64_t vocab = logits.dim(1);
  parallel_for(logits.dim(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m) {
      const float* p = reference.as<const float>() + m * reference.stride(0);
      const float* q = logits.as<const float>() + m * logits.stride(0);
      const double log_p = log_sum_exp(p, vocab);
      const double log_q = log_sum_exp(q, vocab);
      const auto shift = static_cast<float>(log_p);
      // Two sums of nearly equal size would lose a small divergence: one sum of small terms instead.
      const auto offset = static_cast<float>(log_q - log_p);
      double sum = 0;
      for (std::int64_t first = 0; first < vocab; first += kKlBlock) {
        const std::int64_t last = std::min(vocab, first + kKlBlock);
        float terms[kKlBlock];
        for (std::int64_t i = first; i < last; ++i)
          terms[i - first] = fast_exp(p[i] - shift) * (p[i] - q[i] + offset);
        for (std::int64_t i = first; i < last; ++i) sum += static_cast<double>(terms[i - first]);
      }
      out[static_cast<std::size_t>(m)] = sum;
    }
  });
}

}  // namespace slidesparse
