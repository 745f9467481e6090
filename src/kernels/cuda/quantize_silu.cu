#include <algorithm>

#include "kernels/cuda/quantize_rows.cuh"

namespace slidesparse::cuda {
namespace {

// SiLU's exponential and division take some 40 instructions, which large products have no time for: memory
// would wait. A gate is one of 65536 numbers, so blocks that stay for many rows look it up: all gates with
// 2^-14 <= |x| < 2^5, in shared memory, made with the same arithmetic. Vectors with another gate compute.
constexpr std::uint32_t kFirstExponent = 127 - 14;
constexpr std::uint32_t kLastExponent = 127 + 5;  // not in it
// A key is the gate's bits turned left by one: the sign lowest.
constexpr std::uint32_t kFirstKey = kFirstExponent << 8;
constexpr std::uint32_t kLastKey = kLastExponent << 8;
constexpr int kTableEntries = static_cast<int>(kLastKey - kFirstKey);
constexpr int kTableBytes = kTableEntries * 4;
// Elements from which on the table pays: it takes a microsecond.
constexpr std::int64_t kManyElements = std::int64_t{1} << 23;

__device__ inline std::uint32_t keys_of(std::uint32_t gates) {
  return (gates << 1 & 0xfffefffeu) | (gates >> 15 & 0x00010001u);
}

__device__ inline std::uint32_t table_pair(const float* table, std::uint32_t keys, std::uint32_t up) {
  const float low = table[static_cast<int>(keys & 0xffffu) - static_cast<int>(kFirstKey)];
  const float high = table[static_cast<int>(keys >> 16) - static_cast<int>(kFirstKey)];
  return bf16_pair(low * low_float(up), high * high_float(up));
}

__device__ inline uint4 table_vector(const float* table, const uint4& gate, const uint4& up) {
  const std::uint32_t a = keys_of(gate.x), b = keys_of(gate.y), c = keys_of(gate.z), d = keys_of(gate.w);
  const std::uint32_t lowest = __vminu2(__vminu2(a, b), __vminu2(c, d));
  const std::uint32_t highest = __vmaxu2(__vmaxu2(a, b), __vmaxu2(c, d));
  const bool inside = (lowest & 0xffffu) >= kFirstKey && lowest >> 16 >= kFirstKey &&
                      (highest & 0xffffu) < kLastKey && highest >> 16 < kLastKey;
  if (!inside) return silu_vector(gate, up);
  return make_uint4(table_pair(table, a, up.x), table_pair(table, b, up.y), table_pair(table, c, up.z),
                    table_pair(table, d, up.w));
}

// Of one row (two blocks a multiprocessor) or of several rows (one: it makes one table).
template <Codes C, int kMostThreads>
__global__ void __launch_bounds__(kMostThreads, kMostThreads <= kUsualThreads ? 2 : 1)
    silu_rows(const __grid_constant__ QuantizePlan p) {
  constexpr int kDepth = 4;
  extern __shared__ __align__(16) std::uint8_t shared[];
  __shared__ std::uint32_t partials[2][kMostBlockRows][32];
  float* const table = reinterpret_cast<float*>(shared);
  std::uint8_t* const row_shared =
      shared + kTableBytes + static_cast<std::int64_t>(threadIdx.y) * p.row_bytes;
  const QuantizeArgs& a = p.args;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.y;
  std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;

  uint4 gate[kDepth];
  uint4 up[kDepth];
  const auto load = [&] {
    const auto* x = static_cast<const std::uint16_t*>(a.x) + row * a.ldx;
    load_row(x, p, row < a.m, gate);
    load_row(x + a.k, p, row < a.m, up);
  };
  // The first row is on its way while the table is made.
  load();
  const int threads = static_cast<int>(blockDim.x * blockDim.y);
  for (int i = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x); i < kTableEntries; i += threads) {
    const std::uint32_t key = kFirstKey + static_cast<std::uint32_t>(i);
    table[i] = silu(__uint_as_float((key >> 1 | (key & 1u) << 15) << 16));
  }
  __syncthreads();
  // Two sets of partial results take turns: a fast warp may be a row ahead of a slow one, never two.
  for (int turn = 0; row < p.rows; turn ^= 1) {
#pragma unroll
    for (int s = 0; s < kDepth; ++s) {
      const int i = s * blockDim.x + threadIdx.x;
      if (i < p.vectors) gate[s] = table_vector(table, gate[s], up[s]);
    }
    finish_row<C>(p, row, gate, row_shared, partials[turn][threadIdx.y]);
    row += step;
    load();
    if (p.staged != 0 || p.lifted != 0) row_barrier();
  }
}

template <Codes C, int kMostThreads>
cudaError_t launch_table(const QuantizePlan& plan, QuantizeShape shape, cudaStream_t stream) {
  const auto kernel = silu_rows<C, kMostThreads>;
  shape.rows = std::clamp(kMostThreads / shape.threads, 1, kMostBarriers);
  const int bytes = kTableBytes + plan.row_bytes * shape.rows;
  int device = 0;
  int processors = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  }
  if (status == cudaSuccess && bytes > 46 * 1024) {
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  }
  if (status != cudaSuccess) return status;
  const std::int64_t wanted = (plan.rows + shape.rows - 1) / shape.rows;
  const std::int64_t resident = std::int64_t{kMostThreads <= kUsualThreads ? 2 : 1} * processors;
  kernel<<<static_cast<unsigned>(std::min(wanted, resident)), dim3(shape.threads, shape.rows), bytes,
           stream>>>(plan);
  return cudaGetLastError();
}

template <Codes C>
cudaError_t launch_table_of(const QuantizePlan& plan, const QuantizeShape& shape, cudaStream_t stream) {
  return shape.threads > 512 ? launch_table<C, kUsualThreads>(plan, shape, stream)
                             : launch_table<C, 1024>(plan, shape, stream);
}

}  // namespace

cudaError_t launch_silu(const QuantizePlan& plan, const QuantizeShape& shape, cudaStream_t stream) {
  const bool many = plan.args.m * plan.args.k >= kManyElements;
  if (!many || shape.depth != 4 || shape.threads > kUsualThreads) {
    return launch_producer<Producer::kSiluMul>(plan, shape, stream);
  }
  switch (plan.args.out) {
    case DType::kI8:
      return launch_table_of<Codes::kI8>(plan, shape, stream);
    case DType::kF8E4M3:
      return launch_table_of<Codes::kF8>(plan, shape, stream);
    default:
      return launch_table_of<Codes::kBF16>(plan, shape, stream);
  }
}

}  // namespace slidesparse::cuda
