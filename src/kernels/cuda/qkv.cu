#include "kernels/cuda/qkv.h"

#include <cuda_runtime.h>

#include "kernels/cuda/quantize_plan.cuh"

namespace slidesparse::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kLongestHead = 256;  // 32 lanes of 8 elements

__device__ float element(const uint4& v, int i) {
  const std::uint32_t pair = i < 2 ? v.x : i < 4 ? v.y : i < 6 ? v.z : v.w;
  return i % 2 == 0 ? low_float(pair) : high_float(pair);
}

__device__ uint4 packed(const float (&v)[8]) {
  return make_uint4(bf16_pair(v[0], v[1]), bf16_pair(v[2], v[3]), bf16_pair(v[4], v[5]),
                    bf16_pair(v[6], v[7]));
}

// As rms_norm of kernels/cpu/ops_rows_body.h: one chunk, whose tree has zeros for lanes that are not there.
template <int kLanes>
__device__ uint4 normalised(const uint4& x, const uint4& weight, const QkvArgs& a) {
  float sum = vector_of_squares(x);
#pragma unroll
  for (int width = kLanes / 2; width > 0; width /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, width);
  const float inverse = inverse_rms(sum, a.head_dim, a.eps);
  float values[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    values[i] = element(weight, i) * bf16_float(bf16_bits(element(x, i) * inverse));
  }
  return packed(values);
}

// As rotate of kernels/cpu/ops_rows_body.h. The first half of a head has the first elements of pairs.
template <int kLanes>
__device__ uint4 rotated(const uint4& x, const float* row, bool there, int lane, int half_lanes) {
  const bool first = lane < half_lanes;
  const int partner = first ? lane + half_lanes : lane - half_lanes;
  uint4 other;
  other.x = __shfl_sync(0xffffffffu, x.x, partner, kLanes);
  other.y = __shfl_sync(0xffffffffu, x.y, partner, kLanes);
  other.z = __shfl_sync(0xffffffffu, x.z, partner, kLanes);
  other.w = __shfl_sync(0xffffffffu, x.w, partner, kLanes);
  float angles[2][8];
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    float4 four[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float nan = __uint_as_float(0x7fc00000u);
      four[i] = make_float4(nan, nan, nan, nan);
      if (there) {
        const int at = part * half_lanes + (first ? lane : partner);
        four[i] = reinterpret_cast<const float4*>(row)[2 * at + i];
      }
    }
    angles[part][0] = four[0].x, angles[part][1] = four[0].y;
    angles[part][2] = four[0].z, angles[part][3] = four[0].w;
    angles[part][4] = four[1].x, angles[part][5] = four[1].y;
    angles[part][6] = four[1].z, angles[part][7] = four[1].w;
  }
  float values[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float own = element(x, i) * angles[0][i];
    const float crossed = element(other, i) * angles[1][i];
    values[i] = first ? own - crossed : own + crossed;
  }
  return packed(values);
}

__device__ std::uint32_t scaled_code(float value, float scale) {
  const float quotient = __fdiv_rn(value, scale);
  return quotient == quotient ? e4m3_codes(quotient, 0.0f, 0.0f, 0.0f) & 0xffu : 0x7fu;
}

__device__ uint2 scaled_codes(const uint4& x, float scale) {
  std::uint32_t words[2] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) words[i / 4] |= scaled_code(element(x, i), scale) << (8 * (i % 4));
  return make_uint2(words[0], words[1]);
}

// kLanes threads, a power of two, own one head of one token: q's, then k's, then v's.
template <int kLanes>
__global__ void __launch_bounds__(kThreads) qkv_kernel(const __grid_constant__ QkvArgs a) {
  let_successor_start();
  wait_for_predecessor();
  const std::int64_t unit = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int lanes = static_cast<int>(a.head_dim) / 8;
  const std::int64_t units = a.heads + 2 * a.kv_heads;
  const std::int64_t token = unit / units;
  const std::int64_t head = unit - token * units;
  const bool live = token < a.m && lane < lanes;  // the others take part in exchanges
  uint4* const place =
      reinterpret_cast<uint4*>(static_cast<std::uint16_t*>(a.qkv) + token * a.ld + head * a.head_dim) + lane;
  uint4 x = live ? *place : make_uint4(0, 0, 0, 0);
  const bool is_q = head < a.heads;
  const bool is_v = head >= a.heads + a.kv_heads;
  const std::int64_t position = live ? a.positions[token] : 0;
  const std::int64_t slot = live && !is_q ? a.slots[token] : -1;
  if (a.q_norm != nullptr) {
    const void* norm = is_q ? a.q_norm : a.k_norm;
    const uint4 weight = live ? static_cast<const uint4*>(norm)[lane] : make_uint4(0, 0, 0, 0);
    const uint4 normed = normalised<kLanes>(x, weight, a);
    if (!is_v) x = normed;
  }
  const bool there = live && position >= 0 && position < a.max_positions;
  const uint4 turned =
      rotated<kLanes>(x, a.rotary_table + (there ? position : 0) * a.head_dim, there, lane, lanes / 2);
  if (!is_v) x = turned;
  if (!live) return;
  if (is_q || (a.keys_in_place && !is_v)) *place = x;
  if (is_q) return;
  if (slot < 0 || slot >= a.cache.pages * a.cache.page_size) return;
  const std::int64_t kv_head = head - a.heads - (is_v ? a.kv_heads : 0);
  const std::int64_t to = (slot * a.kv_heads + kv_head) * a.head_dim + 8 * lane;
  void* const cache = is_v ? a.cache.values : a.cache.keys;
  if (a.cache.dtype == DType::kBF16) {
    *reinterpret_cast<uint4*>(static_cast<std::uint16_t*>(cache) + to) = x;
  } else {
    const float scale = is_v ? a.cache.value_scale : a.cache.key_scale;
    *reinterpret_cast<uint2*>(static_cast<std::uint8_t*>(cache) + to) = scaled_codes(x, scale);
  }
}

template <int kLanes>
cudaError_t launch(const QkvArgs& args, cudaStream_t stream) {
  const std::int64_t units = args.heads + 2 * args.kv_heads;
  constexpr std::int64_t kBlockUnits = kThreads / kLanes;
  if (args.m > (2147483647 - 1) * kBlockUnits / units) return cudaErrorInvalidValue;
  const std::int64_t blocks = (args.m * units + kBlockUnits - 1) / kBlockUnits;
  return launch_early<qkv_kernel<kLanes>>(dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream,
                                          args);
}

bool is_aligned(const void* pointer) {
  return pointer != nullptr && reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

bool is_valid(const QkvArgs& a) {
  if (a.heads <= 0 || a.kv_heads <= 0 || a.heads > 65536 || a.kv_heads > 65536) return false;
  if (a.head_dim <= 0 || a.head_dim % 16 != 0 || a.head_dim > kLongestHead) return false;
  if (a.ld % 8 != 0 || (a.m > 1 && a.ld < (a.heads + 2 * a.kv_heads) * a.head_dim)) return false;
  if (!is_aligned(a.qkv) || !is_aligned(a.rotary_table) || !is_aligned(a.cache.keys) ||
      !is_aligned(a.cache.values) || a.positions == nullptr || a.slots == nullptr) {
    return false;
  }
  if ((a.q_norm == nullptr) != (a.k_norm == nullptr)) return false;
  if (a.q_norm != nullptr && (!is_aligned(a.q_norm) || !is_aligned(a.k_norm))) return false;
  if (a.max_positions < 0 || a.cache.pages < 0 || a.cache.page_size <= 0 ||
      a.cache.pages > 2147483647 / a.cache.page_size) {
    return false;
  }
  return a.cache.dtype == DType::kBF16 || a.cache.dtype == DType::kF8E4M3;
}

}  // namespace

int finish_qkv(const QkvArgs& args, void* stream) {
  if (args.m < 0) return cudaErrorInvalidValue;
  if (args.m == 0) return cudaSuccess;
  if (!is_valid(args)) return cudaErrorInvalidValue;
  const auto handle = static_cast<cudaStream_t>(stream);
  if (args.head_dim <= 64) return launch<8>(args, handle);
  if (args.head_dim <= 128) return launch<16>(args, handle);
  return launch<32>(args, handle);
}

}  // namespace slidesparse::cuda
