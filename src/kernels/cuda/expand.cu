#include "kernels/cuda/expand.h"

#include <algorithm>
#include <type_traits>

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/numeric.cuh"
#include "slidesparse/core/dtype.h"
#include "slidesparse/format/codes.h"
#include "slidesparse/format/pattern.h"

// Every thread makes words of 4 bytes of the output, neighbours next to each other; what it reads (values,
// codes) its neighbours read too, so it comes from the first-level cache.
namespace slidesparse::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWords = 4;  // of a thread
constexpr std::int64_t kMostBlocks = 2147483647;

enum class Form { kDense, kSlid, kMetadata };

struct Plan {
  PackedRows rows;
  void* out = nullptr;
  std::int64_t stride = 0;  // of an output row, elements
  std::int64_t groups = 0;
  std::int64_t code_bytes = 0;  // of a row
  std::int64_t blocks_a_row = 0;
  bool wide = false;  // 4-byte stores fit
};

// The dropped lanes of every code, a in the low byte. Codes that name no pair are damage which whoever read
// the file has refused; here they only must not lead outside: the last two lanes.
template <int kN>
__device__ inline void fill_pairs(std::uint16_t (&pairs)[128]) {
  if (threadIdx.x < 128) {
    constexpr Pattern kPattern = Pattern::of_half_group(kN);
    const int code = static_cast<int>(threadIdx.x);
    const DroppedPair pair =
        code < code_count(kPattern) ? decode_pair(code) : DroppedPair{2 * kN - 2, 2 * kN - 1};
    pairs[code] = static_cast<std::uint16_t>(pair.a | pair.b << 8);
  }
  __syncthreads();
}

// One row's groups.
template <int kN, typename T>
struct RowReader {
  static constexpr int kKept = 2 * kN - 2;
  const T* values;
  const std::uint8_t* codes;
  const std::uint16_t* pairs;
  std::int64_t k;
  std::int64_t groups;

  __device__ DroppedPair dropped(std::int64_t group) const {
    constexpr int kBits = Pattern::of_half_group(kN).code_bits();
    const std::uint16_t pair = pairs[read_code(codes, kBits, group)];
    return {pair & 0xff, pair >> 8};
  }

  // Lanes `lane` (even) and the next of the dense row: in the low and the high half.
  __device__ std::uint32_t dense_pair(std::int64_t lane) const {
    if (lane >= k) return 0;
    const std::int64_t group = lane / (2 * kN);
    const int in = static_cast<int>(lane - group * (2 * kN));
    const DroppedPair pair = dropped(group);
    const int slot = in - (pair.a < in ? 1 : 0) - (pair.b < in ? 1 : 0);
    const bool first = in != pair.a && in != pair.b;
    const bool second = in + 1 != pair.a && in + 1 != pair.b && lane + 1 < k;
    const T* from = values + group * kKept + slot;
    const std::uint32_t low = first ? from[0] : T{0};
    const std::uint32_t high = second ? from[first ? 1 : 0] : T{0};
    return low | high << (8 * sizeof(T));
  }

  // The 2-bit indices of the two slots of a window, the second at bits 2 and 3.
  __device__ std::uint32_t window_indices(std::int64_t group, int window) const {
    const DroppedPair pair = dropped(group);
    std::uint32_t indices = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      int lane = 2 * window + i;
      lane += lane >= pair.a ? 1 : 0;
      lane += lane >= pair.b ? 1 : 0;
      indices |= static_cast<std::uint32_t>(lane - 2 * window) << (2 * i);
    }
    return indices;
  }

  // The four lanes of a window of the slid row, the first lowest.
  __device__ std::uint64_t slid_window(std::int64_t number) const {
    const std::int64_t group = number / (kN - 1);
    if (group >= groups) return 0;
    const int window = static_cast<int>(number - group * (kN - 1));
    const std::uint32_t indices = window_indices(group, window);
    const T* from = values + group * kKept + 2 * window;
    return static_cast<std::uint64_t>(from[0]) << (8 * sizeof(T) * (indices & 3u)) |
           static_cast<std::uint64_t>(from[1]) << (8 * sizeof(T) * (indices >> 2));
  }

  // 16 slots of metadata from slot 16 i on.
  __device__ std::uint32_t metadata_word(std::int64_t i) const {
    std::uint32_t word = 0;
#pragma unroll
    for (int part = 0; part < 8; ++part) {
      const std::int64_t number = 8 * i + part;
      const std::int64_t group = number / (kN - 1);
      if (group >= groups) break;
      word |= window_indices(group, static_cast<int>(number - group * (kN - 1))) << (4 * part);
    }
    return word;
  }

  // Word i of the output row: elements of `Out`.
  template <Form kForm>
  __device__ std::uint32_t word(std::int64_t i) const {
    if constexpr (kForm == Form::kMetadata) {
      return metadata_word(i);
    } else if constexpr (kForm == Form::kDense) {
      if constexpr (sizeof(T) == 2) return dense_pair(2 * i);
      return dense_pair(4 * i) | dense_pair(4 * i + 2) << 16;
    } else {
      if constexpr (sizeof(T) == 1) return static_cast<std::uint32_t>(slid_window(i));
      return static_cast<std::uint32_t>(slid_window(i / 2) >> (32 * (i % 2)));
    }
  }
};

// Elements of 4 bytes from `at` on, one by one, up to the row's end.
template <typename Out>
__device__ inline void store_parts(Out* row, std::int64_t at, std::int64_t end, std::uint32_t word) {
#pragma unroll
  for (int i = 0; i < 4 / static_cast<int>(sizeof(Out)); ++i) {
    if (at + i < end) row[at + i] = static_cast<Out>(word >> (8 * sizeof(Out) * i));
  }
}

template <int kN, typename T, Form kForm>
__global__ void __launch_bounds__(kThreads) expand_kernel(const __grid_constant__ Plan p) {
  using Out = std::conditional_t<kForm == Form::kMetadata, std::uint8_t, T>;
  constexpr int kParts = 4 / static_cast<int>(sizeof(Out));
  __shared__ std::uint16_t pairs[128];
  fill_pairs<kN>(pairs);
  const std::int64_t number = blockIdx.x / p.blocks_a_row;
  const std::int64_t first = (blockIdx.x - number * p.blocks_a_row) * (kThreads * kWords) + threadIdx.x;
  const bool real = number < p.rows.n;
  const std::int64_t kept = p.groups * (2 * kN - 2);
  const RowReader<kN, T> reader{static_cast<const T*>(p.rows.values) + number * kept,
                                p.rows.codes + number * p.code_bytes, pairs, p.rows.k, p.groups};
  Out* const row = static_cast<Out*>(p.out) + number * p.stride;
  const std::int64_t words = (p.stride + kParts - 1) / kParts;
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    const std::int64_t at = first + i * kThreads;
    if (at >= words) return;
    const std::uint32_t word = real ? reader.template word<kForm>(at) : 0u;
    if (p.wide) {
      reinterpret_cast<std::uint32_t*>(row)[at] = word;
    } else {
      store_parts(row, at * kParts, p.stride, word);
    }
  }
}

template <int kN, typename T, Form kForm>
cudaError_t launch(Plan plan, std::int64_t rows, cudaStream_t stream) {
  constexpr Pattern kPattern = Pattern::of_half_group(kN);
  constexpr std::int64_t kSize = kForm == Form::kMetadata ? 1 : sizeof(T);
  const std::int64_t wanted = kForm == Form::kDense  ? plan.rows.k
                              : kForm == Form::kSlid ? kPattern.lifted_k(plan.rows.k)
                                                     : (kPattern.values_per_row(plan.rows.k) + 3) / 4;
  if (plan.stride < wanted) return cudaErrorInvalidValue;
  if (reinterpret_cast<std::uintptr_t>(plan.rows.values) % sizeof(T) != 0) return cudaErrorInvalidValue;
  if (reinterpret_cast<std::uintptr_t>(plan.out) % kSize != 0) return cudaErrorInvalidValue;
  plan.groups = kPattern.groups(plan.rows.k);
  plan.code_bytes = kPattern.code_bytes_per_row(plan.rows.k);
  plan.wide = reinterpret_cast<std::uintptr_t>(plan.out) % 4 == 0 && plan.stride * kSize % 4 == 0;
  const std::int64_t words = (plan.stride * kSize + 3) / 4;
  plan.blocks_a_row = (words + kThreads * kWords - 1) / (kThreads * kWords);
  if (rows == 0 || words == 0) return cudaSuccess;
  if (rows > kMostBlocks / plan.blocks_a_row) return cudaErrorInvalidValue;
  expand_kernel<kN, T, kForm><<<static_cast<unsigned>(rows * plan.blocks_a_row), kThreads, 0, stream>>>(plan);
  return cudaGetLastError();
}

template <typename T, Form kForm>
cudaError_t launch_pattern(const Plan& plan, std::int64_t rows, cudaStream_t stream) {
  switch (plan.rows.half_group) {
    case 2:
      return launch<2, T, kForm>(plan, rows, stream);
    case 3:
      return launch<3, T, kForm>(plan, rows, stream);
    case 4:
      return launch<4, T, kForm>(plan, rows, stream);
    case 5:
      return launch<5, T, kForm>(plan, rows, stream);
    case 6:
      return launch<6, T, kForm>(plan, rows, stream);
    case 7:
      return launch<7, T, kForm>(plan, rows, stream);
    case 8:
      return launch<8, T, kForm>(plan, rows, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

template <Form kForm>
int expand(const PackedRows& rows, void* out, std::int64_t stride, std::int64_t out_rows, void* stream) {
  if (rows.n < 0 || rows.k < 0 || out_rows < rows.n || (out == nullptr && out_rows > 0)) {
    return cudaErrorInvalidValue;
  }
  const bool empty = rows.n == 0 || rows.k == 0;
  if (!empty && (rows.values == nullptr || rows.codes == nullptr)) return cudaErrorInvalidValue;
  Plan plan;
  plan.rows = rows;
  plan.out = out;
  plan.stride = stride;
  const auto handle = static_cast<cudaStream_t>(stream);
  // Metadata does not look at the values.
  if (rows.element_bytes == 1) return launch_pattern<std::uint8_t, kForm>(plan, out_rows, handle);
  if (rows.element_bytes == 2) {
    if constexpr (kForm == Form::kMetadata) {
      return launch_pattern<std::uint8_t, kForm>(plan, out_rows, handle);
    } else {
      return launch_pattern<std::uint16_t, kForm>(plan, out_rows, handle);
    }
  }
  return cudaErrorInvalidValue;
}

// Rows of another stride: pieces of 16 bytes when everything is aligned, else elements.
template <typename T>
__global__ void __launch_bounds__(kThreads) pad_kernel(const T* from, std::int64_t n, std::int64_t k, T* to,
                                                       std::int64_t ldd, std::int64_t blocks_a_row) {
  const std::int64_t row = blockIdx.x / blocks_a_row;
  const std::int64_t first = (blockIdx.x - row * blocks_a_row) * (kThreads * kWords) + threadIdx.x;
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    const std::int64_t at = first + i * kThreads;
    if (at >= ldd) return;
    to[row * ldd + at] = row < n && at < k ? from[row * k + at] : T{};
  }
}

template <typename T>
cudaError_t launch_pad(const void* from, std::int64_t n, std::int64_t k, void* to, std::int64_t ldd,
                       std::int64_t n_padded, cudaStream_t stream) {
  const std::int64_t blocks_a_row = (ldd + kThreads * kWords - 1) / (kThreads * kWords);
  if (n_padded == 0 || ldd == 0) return cudaSuccess;
  if (n_padded > kMostBlocks / blocks_a_row) return cudaErrorInvalidValue;
  pad_kernel<T><<<static_cast<unsigned>(n_padded * blocks_a_row), kThreads, 0, stream>>>(
      static_cast<const T*>(from), n, k, static_cast<T*>(to), ldd, blocks_a_row);
  return cudaGetLastError();
}

__device__ inline float widened(float value) {
  return value;
}
__device__ inline float widened(__half value) {
  return __half2float(value);
}
__device__ inline float widened(__nv_bfloat16 value) {
  return __bfloat162float(value);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    widen_kernel(const T* from, std::int64_t n, float* to, std::int64_t n_padded) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n_padded) to[i] = i < n ? widened(from[i]) : 0.0f;
}

template <typename T>
cudaError_t launch_widen(const void* from, std::int64_t n, float* to, std::int64_t n_padded,
                         cudaStream_t stream) {
  const std::int64_t blocks = (n_padded + kThreads - 1) / kThreads;
  if (blocks > kMostBlocks || reinterpret_cast<std::uintptr_t>(from) % sizeof(T) != 0)
    return cudaErrorInvalidValue;
  widen_kernel<T>
      <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(static_cast<const T*>(from), n, to, n_padded);
  return cudaGetLastError();
}

}  // namespace

int expand_dense(const PackedRows& rows, void* dense, std::int64_t ldd, std::int64_t n_padded, void* stream) {
  return expand<Form::kDense>(rows, dense, ldd, n_padded, stream);
}

int expand_slid(const PackedRows& rows, void* slid, std::int64_t ldd, std::int64_t n_padded, void* stream) {
  return expand<Form::kSlid>(rows, slid, ldd, n_padded, stream);
}

int slide_metadata(const PackedRows& rows, std::uint8_t* metadata, std::int64_t metadata_stride,
                   void* stream) {
  return expand<Form::kMetadata>(rows, metadata, metadata_stride, rows.n, stream);
}

int pad_dense(const void* from, int element_bytes, std::int64_t n, std::int64_t k, void* to, std::int64_t ldd,
              std::int64_t n_padded, void* stream) {
  if (n < 0 || k < 0 || n_padded < n || ldd < k || to == nullptr || (from == nullptr && n * k > 0) ||
      (element_bytes != 1 && element_bytes != 2)) {
    return cudaErrorInvalidValue;
  }
  const auto handle = static_cast<cudaStream_t>(stream);
  const auto all = static_cast<std::uintptr_t>(k * element_bytes) |
                   static_cast<std::uintptr_t>(ldd * element_bytes) | reinterpret_cast<std::uintptr_t>(from) |
                   reinterpret_cast<std::uintptr_t>(to);
  // The widest element that divides everything.
  if (all % 16 == 0) {
    return launch_pad<uint4>(from, n, k * element_bytes / 16, to, ldd * element_bytes / 16, n_padded, handle);
  }
  if (all % 4 == 0) {
    return launch_pad<std::uint32_t>(from, n, k * element_bytes / 4, to, ldd * element_bytes / 4, n_padded,
                                     handle);
  }
  if (all % 2 == 0) {
    return launch_pad<std::uint16_t>(from, n, k * element_bytes / 2, to, ldd * element_bytes / 2, n_padded,
                                     handle);
  }
  return launch_pad<std::uint8_t>(from, n, k * element_bytes, to, ldd * element_bytes, n_padded, handle);
}

int widen_vector(const void* from, int dtype, std::int64_t n, float* to, std::int64_t n_padded,
                 void* stream) {
  if (n < 0 || n_padded < n || (from == nullptr && n > 0) || (to == nullptr && n_padded > 0)) {
    return cudaErrorInvalidValue;
  }
  if (n_padded == 0) return cudaSuccess;
  const auto handle = static_cast<cudaStream_t>(stream);
  switch (static_cast<DType>(dtype)) {
    case DType::kF32:
      return launch_widen<float>(from, n, to, n_padded, handle);
    case DType::kF16:
      return launch_widen<__half>(from, n, to, n_padded, handle);
    case DType::kBF16:
      return launch_widen<__nv_bfloat16>(from, n, to, n_padded, handle);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace slidesparse::cuda
