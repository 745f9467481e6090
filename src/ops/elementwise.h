#pragma once

#include <cstdint>
#include <span>

#include "core/device.h"
#include "core/tensor.h"

// Operations between the linears. All: shapes checked, work split over threads, FP32 arithmetic, one rounding
// to BF16.
namespace slidesparse {

// out[m, :] = x[m, :] / rms(x[m, :]) * weight; x BF16 [m, hidden], weight [hidden]. As transformers: x is
// normalised in FP32, rounded to BF16, then multiplied by the weight in BF16.
void rms_norm(const Context& context, const TensorView& x, const TensorView& weight, double eps,
              const TensorView& out);

// residual += x (BF16, rounded), then rms_norm of residual into out.
void add_rms_norm(const Context& context, const TensorView& residual, const TensorView& x,
                  const TensorView& weight, double eps, const TensorView& out);

// x += y, BF16 [m, hidden].
void add(const Context& context, const TensorView& x, const TensorView& y);

// out[m, i] = silu(gate_up[m, i]) * gate_up[m, inter + i]; gate_up BF16 [m, 2 inter].
void silu_mul(const Context& context, const TensorView& gate_up, const TensorView& out);

// out[t, :] = table[tokens[t], :].
void embed(const Context& context, const TensorView& table, std::span<const std::int32_t> tokens,
           const TensorView& out);

// RMSNorm over head_dim of each head of x [m, heads, head_dim] (row stride free), in place (Qwen3's q_norm
// and k_norm).
void head_rms_norm(const Context& context, const TensorView& x, const TensorView& weight, double eps);

// table F32 [m, 2 * half]: cosines, then sines, of position * inverse frequency; half = head_dim / 2. Made
// once a step, used by all layers.
void rotary_table(const Context& context, std::span<const std::int32_t> positions,
                  std::span<const float> inverse_frequencies, const TensorView& table);

// Rotates q [m, heads, head_dim] and k [m, kv_heads, head_dim] in place (half-split pairs, as Hugging Face
// models store them).
void rotary(const Context& context, const TensorView& q, const TensorView& k, const TensorView& table);

// out[m] = logits[m, targets[m]] - log(sum_i exp(logits[m, i])); logits F32 [m, vocab].
void token_log_probabilities(const Context& context, const TensorView& logits,
                             std::span<const std::int32_t> targets, std::span<double> out);

// out[m] = KL(p || q) in nats, p the softmax of reference[m, :], q that of logits[m, :]; both F32 [m, vocab].
void kl_divergences(const Context& context, const TensorView& reference, const TensorView& logits,
                    std::span<double> out);

}  // namespace slidesparse
