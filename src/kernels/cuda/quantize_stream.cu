#include <algorithm>

#include "kernels/cuda/quantize_rows.cuh"

// Norm and SiLU read two rows for each that they write, and between both there are barriers in which memory
// would wait. For many rows blocks stay: while a row is worked on, the next one is on its way into shared
// memory.
namespace slidesparse::cuda {
namespace {

constexpr int kDepth = 4;
constexpr int kMostThreads = 1024;
constexpr int kMostStreamRows = 8;  // of a block
// In vectors: of shorter rows most threads have nothing, and codes as they are put together must fit into a
// buffer.
constexpr int kShortest = 32;
// Elements from which on it pays, measured.
constexpr std::int64_t kManyNormElements = std::int64_t{5} << 20;
constexpr std::int64_t kManySiluElements = std::int64_t{3} << 19;
constexpr double kSparedSlots = 1.02;

// SiLU's exponential and division take some 40 instructions, for which memory would wait. A gate is one of
// 65536 numbers, so it is looked up: all gates with 2^-14 <= |x| < 2^5, in shared memory, made with the same
// arithmetic. Vectors with another gate compute.
constexpr std::uint32_t kFirstExponent = 127 - 14;
constexpr std::uint32_t kLastExponent = 127 + 5;  // not in it
// A key is the gate's bits turned left by one: the sign lowest.
constexpr std::uint32_t kFirstKey = kFirstExponent << 8;
constexpr std::uint32_t kLastKey = kLastExponent << 8;
constexpr int kTableEntries = static_cast<int>(kLastKey - kFirstKey);
constexpr int kTableBytes = kTableEntries * 4;
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

__device__ inline void copy_async(void* to, const void* from) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
}
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// What all rows of a block look at: SiLU's table, or the norm's weights.
__host__ __device__ inline int common_bytes(Producer producer, int vectors) {
  return producer == Producer::kSiluMul ? kTableBytes : 16 * vectors;
}

// Each row of a block (threadIdx.y) has two buffers of two input rows. Codes are put together in the buffer
// whose row they come from.
template <Producer kProducer, Codes C>
__global__ void __launch_bounds__(kMostThreads, 1) quantize_stream(const __grid_constant__ QuantizePlan p) {
  extern __shared__ __align__(16) std::uint8_t shared[];
  __shared__ std::uint32_t partials[kMostStreamRows][32];
  __shared__ float chunks[kDepth * kMostThreads / kChunkVectors];
  const QuantizeArgs& a = p.args;
  const int t = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.y;
  std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  auto* const buffers = reinterpret_cast<uint4*>(shared + common_bytes(kProducer, p.vectors)) +
                        static_cast<std::int64_t>(threadIdx.y) * 4 * p.vectors;

  const auto fetch = [&](std::int64_t next, int turn) {
    if (next >= a.m) return;
    const auto* first = reinterpret_cast<const uint4*>(static_cast<const std::uint16_t*>(a.x) + next * a.ldx);
    const uint4* second = kProducer == Producer::kSiluMul ? first + p.vectors : nullptr;
    if (kProducer == Producer::kRmsNorm && a.update != nullptr)
      second = reinterpret_cast<const uint4*>(static_cast<const std::uint16_t*>(a.update) + next * a.k);
    uint4* const to = buffers + 2 * turn * p.vectors;
#pragma unroll
    for (int s = 0; s < kDepth; ++s) {
      const int i = s * threads + t;
      if (i >= p.vectors) continue;
      copy_async(to + i, first + i);
      if (second != nullptr) copy_async(to + p.vectors + i, second + i);
    }
  };

  fetch(row, 0);
  // While the first row is on its way.
  auto* const table = reinterpret_cast<float*>(shared);
  auto* const weights = reinterpret_cast<uint4*>(shared);
  const int all = threads * static_cast<int>(blockDim.y);
  const int number = static_cast<int>(threadIdx.y) * threads + t;
  if constexpr (kProducer == Producer::kSiluMul) {
    for (int i = number; i < kTableEntries; i += all) {
      const std::uint32_t key = kFirstKey + static_cast<std::uint32_t>(i);
      table[i] = silu(__uint_as_float((key >> 1 | (key & 1u) << 15) << 16));
    }
  } else {
    for (int i = number; i < p.vectors; i += all) weights[i] = static_cast<const uint4*>(a.norm_weight)[i];
  }
  __syncthreads();

  for (int turn = 0; row < p.rows; turn ^= 1, row += step) {
    wait_for_copies();
    row_barrier();  // of everybody; and nobody reads the codes of the last row any more
    fetch(row + step, turn ^ 1);
    const bool live = row < a.m;
    uint4* const from = buffers + 2 * turn * p.vectors;
    uint4 v[kDepth];
#pragma unroll
    for (int s = 0; s < kDepth; ++s) {
      const int i = s * threads + t;
      v[s] = make_uint4(0, 0, 0, 0);
      if (!live || i >= p.vectors) continue;
      v[s] = from[i];
      if constexpr (kProducer == Producer::kSiluMul) {
        v[s] = table_vector(table, v[s], from[p.vectors + i]);
      } else if (a.update != nullptr) {
        v[s] = add_vector(v[s], from[p.vectors + i]);
      }
    }
    if constexpr (kProducer == Producer::kRmsNorm) {
      if (a.residual_out != nullptr && live)
        store_row(static_cast<std::uint16_t*>(a.residual_out) + row * a.k, p, v);
      float* const row_sums = chunks + static_cast<int>(threadIdx.y) * (kDepth * threads / kChunkVectors);
      store_chunks(v, row_sums);
      row_barrier();
      const float inverse = inverse_rms(sum_of_chunks(row_sums, chunks_of(p.vectors)), a.k, a.eps);
#pragma unroll
      for (int s = 0; s < kDepth; ++s) {
        // What stands behind the row stays +0, whatever the inverse is.
        const int i = s * threads + t;
        v[s] = live && i < p.vectors ? norm_vector(v[s], weights[i], inverse) : make_uint4(0, 0, 0, 0);
      }
      if (a.normed_out != nullptr && live)
        store_row(static_cast<std::uint16_t*>(a.normed_out) + row * a.k, p, v);
    }
    // Everybody must have read the buffer before codes go into it; largest_of_row() has that barrier, but for
    // one warp.
    if (C == Codes::kBF16 || threads == 32) row_barrier();
    finish_row<C>(p, row, v, reinterpret_cast<std::uint8_t*>(from), partials[threadIdx.y]);
  }
}

struct StreamShape {
  int threads = 0;
  int rows = 0;  // 0: a row does not fit
  int bytes = 0;
  int blocks = 0;
};

// Rows of a block: many, because they hide each other's barriers, but not so many that in the last turn most
// blocks have nothing to do.
int rows_of_block(std::int64_t rows, int processors, int most) {
  const auto slots = [&](int per_block) {
    const std::int64_t step = std::int64_t{processors} * per_block;
    return (rows + step - 1) / step * per_block;
  };
  std::int64_t fewest = slots(most);
  for (int n = std::max(1, most / 2); n < most; ++n) fewest = std::min(fewest, slots(n));
  int chosen = most;
  while (static_cast<double>(slots(chosen)) > kSparedSlots * static_cast<double>(fewest)) --chosen;
  return chosen;
}

StreamShape shape_of(const QuantizePlan& plan) {
  StreamShape shape;
  int device = 0, processors = 0, most_bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess) {
    return shape;
  }
  const int common = common_bytes(plan.args.producer, plan.vectors);
  constexpr int kStatic = 2048;  // what the kernel has of itself
  const int row_bytes = 4 * 16 * plan.vectors;
  shape.threads = ((plan.vectors + kDepth - 1) / kDepth + 31) / 32 * 32;
  if (shape.threads > kMostThreads) return shape;
  const int most =
      std::min({(most_bytes - kStatic - common) / row_bytes, kMostThreads / shape.threads, kMostStreamRows});
  if (most < 1) return shape;
  shape.rows = rows_of_block(plan.rows, processors, most);
  shape.bytes = common + shape.rows * row_bytes;
  const std::int64_t blocks = (plan.rows + shape.rows - 1) / shape.rows;
  shape.blocks = static_cast<int>(std::min<std::int64_t>(blocks, processors));
  return shape;
}

template <Producer kProducer, Codes C>
cudaError_t launch(const QuantizePlan& plan, const StreamShape& shape, cudaStream_t stream) {
  const auto kernel = quantize_stream<kProducer, C>;
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.bytes);
  if (status != cudaSuccess) return status;
  kernel<<<static_cast<unsigned>(shape.blocks), dim3(shape.threads, shape.rows), shape.bytes, stream>>>(plan);
  return cudaGetLastError();
}

template <Producer kProducer>
cudaError_t launch_codes_of(const QuantizePlan& plan, const StreamShape& shape, cudaStream_t stream) {
  switch (plan.args.out) {
    case DType::kI8:
      return launch<kProducer, Codes::kI8>(plan, shape, stream);
    case DType::kF8E4M3:
      return launch<kProducer, Codes::kF8>(plan, shape, stream);
    default:
      return launch<kProducer, Codes::kBF16>(plan, shape, stream);
  }
}

}  // namespace

bool can_stream(const QuantizePlan& plan) {
  const QuantizeArgs& a = plan.args;
  if (a.producer == Producer::kNone || !plan.wide_in || plan.vectors < kShortest) return false;
  const std::int64_t least = a.producer == Producer::kSiluMul ? kManySiluElements : kManyNormElements;
  return a.m * a.k >= least && shape_of(plan).rows > 0;
}

cudaError_t launch_stream(const QuantizePlan& plan, cudaStream_t stream) {
  const StreamShape shape = shape_of(plan);
  return plan.args.producer == Producer::kRmsNorm ? launch_codes_of<Producer::kRmsNorm>(plan, shape, stream)
                                                  : launch_codes_of<Producer::kSiluMul>(plan, shape, stream);
}

}  // namespace slidesparse::cuda
