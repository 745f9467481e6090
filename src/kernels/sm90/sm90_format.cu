#include "kernels/sm90/sm90_format.h"

#include <cuda_runtime.h>

#include "slidesparse/format/codes.h"
#include "slidesparse/format/pattern.h"

// A block of threads for each step of K of each 64 rows, a thread for the registers that it will be in the
// products. Runs once, when weights are loaded: plain bytes are fast enough.
namespace slidesparse::sm90 {
namespace {

struct Plan {
  StoredRows rows;
  Schedule schedule;
  std::uint8_t* blocks = nullptr;
};

__host__ __device__ inline std::int64_t row_bytes(const StoredRows& rows, const Schedule& schedule) {
  return (2 * rows.windows + rows.dense_lanes) * schedule.element_bytes;
}

// Four bytes from `at` on of a row's part [begin, begin + count), zero behind it.
__device__ inline std::uint32_t four_bytes(const Plan& p, std::int64_t row, std::int64_t begin,
                                           std::int64_t count, std::int64_t at) {
  if (row >= p.rows.rows) return 0;
  const std::uint8_t* part = p.rows.values + row * row_bytes(p.rows, p.schedule) + begin;
  std::uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (at + i < count) word |= std::uint32_t{part[at + i]} << (8 * i);
  }
  return word;
}

// The two 2-bit indices of window `number` of a row: format/slide's, and for 2:4 simply the kept lanes.
template <int kN>
__device__ inline std::uint32_t window_indices(const StoredRows& rows, std::int64_t row,
                                               std::int64_t number) {
  constexpr int kBits = Pattern::of_half_group(kN).code_bits();
  const std::int64_t group = number / (kN - 1);
  const int window = static_cast<int>(number - group * (kN - 1));
  const DroppedPair dropped = decode_pair(read_code(rows.codes + row * rows.code_bytes, kBits, group));
  std::uint32_t indices = 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    int lane = 2 * window + i;
    lane += lane >= dropped.a ? 1 : 0;
    lane += lane >= dropped.b ? 1 : 0;
    indices |= static_cast<std::uint32_t>((lane - 2 * window) & 3) << (2 * i);
  }
  return indices;
}

template <int kN>
__global__ void __launch_bounds__(kWarpgroup) format_kernel(const __grid_constant__ Plan p) {
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t block = blockIdx.y;
  const Step step = step_at(p.schedule, static_cast<int>(blockIdx.x));
  std::uint8_t* const out = p.blocks + block * p.schedule.block_bytes() + step.offset;
  const int element = p.schedule.element_bytes;
  const std::int64_t kept = 2 * p.rows.windows * element;
  const auto words = [&](std::int64_t begin, std::int64_t count, std::int64_t first) {
    std::uint32_t a[4];
#pragma unroll
    for (int reg = 0; reg < 4; ++reg) {
      a[reg] = four_bytes(p, block * kBlockRows + fragment_row(thread, reg), begin, count,
                          first + fragment_byte(thread, reg));
    }
    return make_uint4(a[0], a[1], a[2], a[3]);
  };
  if (!step.sparse) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      reinterpret_cast<uint4*>(out)[half * kWarpgroup + thread] =
          words(kept, p.rows.dense_lanes * element, std::int64_t{step.number} * kStepBytes + 32 * half);
    }
    return;
  }
  reinterpret_cast<uint4*>(out)[thread] = words(0, kept, std::int64_t{step.number} * (kStepBytes / 2));
  std::uint32_t metadata = kIdleMetadata;
  const MetadataPlace place = metadata_place(thread, element);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int64_t row = block * kBlockRows + place.row[half];
    const std::int64_t first = std::int64_t{step.number} * (p.schedule.step_lanes() / 4) + place.quad[half];
    for (int i = 0; i < 4 && row < p.rows.rows && first + i < p.rows.windows; ++i) {
      const int bit = 16 * half + 4 * i;
      metadata &= ~(15u << bit);
      metadata |= window_indices<kN>(p.rows, row, first + i) << bit;
    }
  }
  // Where two threads hold the same word both write it.
  reinterpret_cast<std::uint32_t*>(out + kValueBytes)[metadata_word(thread, element)] = metadata;
}

template <int kN>
cudaError_t launch(const Plan& plan, dim3 grid, cudaStream_t stream) {
  format_kernel<kN><<<grid, kWarpgroup, 0, stream>>>(plan);
  return cudaGetLastError();
}

}  // namespace

int format_fragments(const StoredRows& rows, const Schedule& schedule, std::uint8_t* blocks, void* stream) {
  constexpr std::int64_t kMostBlocks = 65535;  // of a grid's second dimension
  const auto queue = static_cast<cudaStream_t>(stream);
  const std::int64_t count = (rows.rows + kBlockRows - 1) / kBlockRows;
  for (std::int64_t first = 0; first < count; first += kMostBlocks) {
    Plan plan{rows, schedule, blocks + first * schedule.block_bytes()};
    plan.rows.values += first * kBlockRows * row_bytes(rows, schedule);
    if (rows.codes != nullptr) plan.rows.codes += first * kBlockRows * rows.code_bytes;
    plan.rows.rows -= first * kBlockRows;
    const dim3 grid(static_cast<unsigned>(2 * schedule.stages()),
                    static_cast<unsigned>(count - first < kMostBlocks ? count - first : kMostBlocks));
    cudaError_t status = cudaErrorInvalidValue;
    switch (rows.half_group) {
      case 2:
        status = launch<2>(plan, grid, queue);
        break;
      case 3:
        status = launch<3>(plan, grid, queue);
        break;
      case 4:
        status = launch<4>(plan, grid, queue);
        break;
      case 5:
        status = launch<5>(plan, grid, queue);
        break;
      case 6:
        status = launch<6>(plan, grid, queue);
        break;
      case 7:
        status = launch<7>(plan, grid, queue);
        break;
      case 8:
        status = launch<8>(plan, grid, queue);
        break;
      default:
        break;
    }
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace slidesparse::sm90
