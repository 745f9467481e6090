#include <type_traits>

#include "kernels/cuda/quantize_plan.cuh"

// Rows of any length: one block a row, which reads it again for each of its steps.
namespace slidesparse::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kTile = 8 * kThreads;  // elements whose squares are summed at a time

// Element i of what the producer makes of a row.
template <Producer kProducer>
struct Row {
  const std::uint16_t* x;
  const std::uint16_t* second;  // update or up; null: none
  const std::uint16_t* weight;
  float inverse;

  __device__ std::uint16_t sum(std::int64_t i) const {
    return second == nullptr ? x[i] : bf16_bits(bf16_float(x[i]) + bf16_float(second[i]));
  }
  __device__ std::uint16_t operator()(std::int64_t i) const {
    if constexpr (kProducer == Producer::kSiluMul) {
      return bf16_bits(silu(bf16_float(x[i])) * bf16_float(second[i]));
    } else if constexpr (kProducer == Producer::kRmsNorm) {
      return bf16_bits(bf16_float(weight[i]) * bf16_float(bf16_bits(bf16_float(sum(i)) * inverse)));
    } else {
      return x[i];
    }
  }
};

template <Producer kProducer, Codes C>
struct RowCodes {
  using Element = std::conditional_t<C == Codes::kBF16, std::uint16_t, std::uint8_t>;
  Row<kProducer> row;
  TokenScale token;
  std::int64_t k;

  __device__ std::uint32_t lane(int i) const {
    if (i >= k) return 0;
    const std::uint16_t bits = row(i);
    if constexpr (C == Codes::kBF16) return bits;
    const float value = bf16_float(bits) * token.inverse;
    if (!token.usable) return 0;
    if constexpr (C == Codes::kI8) return int8_codes(value, 0, 0, 0) & 0xffu;
    return e4m3_codes(value, 0, 0, 0) & 0xffu;
  }
  __device__ std::uint32_t pair(int i) const { return lane(i) | lane(i + 1) << (8 * sizeof(Element)); }
};

template <Producer kProducer, Codes C>
__global__ void __launch_bounds__(kThreads) quantize_long_rows(const __grid_constant__ QuantizePlan p) {
  __shared__ std::uint32_t partials[32];
  __shared__ float chunks[kThreads / 32];
  const QuantizeArgs& a = p.args;
  const std::int64_t number = blockIdx.x;
  const int t = static_cast<int>(threadIdx.x);
  // A padded row is one without elements.
  const std::int64_t k = number < a.m ? a.k : 0;
  const std::uint16_t* const x = static_cast<const std::uint16_t*>(a.x) + number * a.ldx;
  Row<kProducer> row{x, nullptr, static_cast<const std::uint16_t*>(a.norm_weight), 0.0f};
  if constexpr (kProducer == Producer::kSiluMul) row.second = x + a.k;

  if constexpr (kProducer == Producer::kRmsNorm) {
    if (a.update != nullptr) row.second = static_cast<const std::uint16_t*>(a.update) + number * a.k;
    auto* const out = static_cast<std::uint16_t*>(a.residual_out) + number * a.k;
    // Warp w has the chunks w, w + 32, ...
    float sum = 0.0f;
    for (std::int64_t first = 0; first < k; first += kTile) {
      std::uint16_t eight[8] = {};
      for (int i = 0; i < 8; ++i) {
        const std::int64_t at = first + 8 * t + i;
        if (at >= k) break;
        eight[i] = row.sum(at);
        if (a.residual_out != nullptr) out[at] = eight[i];
      }
      const auto word = [&](int i) {
        return eight[2 * i] | static_cast<std::uint32_t>(eight[2 * i + 1]) << 16;
      };
      sum += add_lanes(vector_of_squares(make_uint4(word(0), word(1), word(2), word(3))));
    }
    if (t % 32 == 0) chunks[t / 32] = sum;
    __syncthreads();
    row.inverse = inverse_rms(sum_of_chunks(chunks, kThreads / 32), a.k, a.eps);
    // In place, x is the sum by now.
    if (a.residual_out != nullptr) {
      row.x = out;
      row.second = nullptr;
    }
    if (a.normed_out != nullptr) {
      auto* const normed = static_cast<std::uint16_t*>(a.normed_out) + number * a.k;
      for (std::int64_t i = t; i < k; i += kThreads) normed[i] = row(i);
    }
  }

  TokenScale token{0.0f, 0.0f, true};
  if constexpr (C != Codes::kBF16) {
    std::uint32_t largest = 0;
    for (std::int64_t i = t; i < k; i += kThreads) largest = max(largest, row(i) & 0x7fffu);
    largest = __reduce_max_sync(0xffffffffu, largest);
    if (t % 32 == 0) partials[t / 32] = largest;
    __syncthreads();
    largest = __reduce_max_sync(0xffffffffu, partials[t % 32]);
    token = token_scale(largest, kDivisor<C>);
    if (t == 0) a.scale[number] = token.scale;
  }
  write_row<C>(p, number, RowCodes<kProducer, C>{row, token, k}, t, kThreads);
}

template <Producer kProducer>
cudaError_t launch(const QuantizePlan& plan, cudaStream_t stream) {
  const dim3 blocks(static_cast<unsigned>(plan.rows));
  switch (plan.args.out) {
    case DType::kI8:
      quantize_long_rows<kProducer, Codes::kI8><<<blocks, kThreads, 0, stream>>>(plan);
      break;
    case DType::kF8E4M3:
      quantize_long_rows<kProducer, Codes::kF8><<<blocks, kThreads, 0, stream>>>(plan);
      break;
    default:
      quantize_long_rows<kProducer, Codes::kBF16><<<blocks, kThreads, 0, stream>>>(plan);
      break;
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_long(const QuantizePlan& plan, cudaStream_t stream) {
  switch (plan.args.producer) {
    case Producer::kRmsNorm:
      return launch<Producer::kRmsNorm>(plan, stream);
    case Producer::kSiluMul:
      return launch<Producer::kSiluMul>(plan, stream);
    default:
      return launch<Producer::kNone>(plan, stream);
  }
}

}  // namespace slidesparse::cuda
