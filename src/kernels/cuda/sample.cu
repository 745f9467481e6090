#include "kernels/cuda/sample.cuh"

namespace slidesparse::cuda {
namespace {

constexpr int kScanThreads = 256;
constexpr int kHistogramThreads = 512;
constexpr int kSeenThreads = 256;
constexpr int kDepth = 4;  // vectors that a thread has on the way

struct Piece {
  std::int64_t row;
  int number;
  int begin;
  int end;
};
__device__ Piece this_piece(const SamplePlan& p) {
  const unsigned row = blockIdx.x / static_cast<unsigned>(p.pieces);
  const auto number = static_cast<int>(blockIdx.x % static_cast<unsigned>(p.pieces));
  const int vocab = static_cast<int>(p.args.vocab);
  const int begin = number * kPieceLogits;
  return {std::int64_t{row}, number, begin, min(vocab, begin + kPieceLogits)};
}

// The largest logits that a thread has met, and the lowest id of equal ones: its ids ascend.
struct Best {
  float x = -INFINITY;
  int id = -1;
  __device__ void meet(int other, float y) {
    const bool more = y > x;  // false for NaN
    x = more ? y : x;
    id = more ? other : id;
  }
  __device__ std::uint64_t rank() const { return id < 0 ? 0 : ranked(x, id); }
};

__device__ std::uint64_t block_max(std::uint64_t value, std::uint64_t* of_warps) {
  value = warp_max(value);
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = threadIdx.x < kScanThreads / kWarp ? of_warps[threadIdx.x] : 0;
  return warp_max(value);  // right in the first warp
}

// Finds each piece's best, and clears the histogram of rows that will have one.
__global__ void __launch_bounds__(kScanThreads) scan_kernel(const __grid_constant__ SamplePlan p) {
  __shared__ std::uint64_t of_warps[kScanThreads / kWarp];
  __shared__ std::uint64_t raw_of_warps[kScanThreads / kWarp];
  const SampleArgs& a = p.args;
  const Piece piece = this_piece(p);
  const SampleRow row = a.row[piece.row];
  const RowLogits logits = row_logits(a, piece.row, row);
  if (!a.all_greedy && !is_greedy(row)) {
    for (int i = piece.number * kScanThreads + static_cast<int>(threadIdx.x); i < kBins;
         i += p.pieces * kScanThreads) {
      p.bin_weight[piece.row * kBins + i] = 0;
      p.bin_count[piece.row * kBins + i] = 0;
    }
  }
  Best best;
  Best raw;
  if (logits.seen == nullptr) {
    for_each_logit<kDepth>(logits.logits, piece.begin, piece.end, [&](int id, float x) { best.meet(id, x); });
    raw = best;
  } else {
    for_each_logit<kDepth>(logits.logits, piece.begin, piece.end, [&](int id, float x) {
      raw.meet(id, x);
      best.meet(id, logits.penalised(id, x));
    });
  }
  const std::uint64_t rank = block_max(best.rank(), of_warps);
  const std::uint64_t raw_rank = block_max(raw.rank(), raw_of_warps);
  if (threadIdx.x != 0) return;
  p.best[blockIdx.x] = rank;
  p.raw_best[blockIdx.x] = raw_rank;
}

// Adds up the weights of raw logits at temperature 1.
__global__ void __launch_bounds__(kScanThreads) raw_sum_kernel(const __grid_constant__ SamplePlan p) {
  __shared__ std::uint64_t of_warps[kScanThreads / kWarp];
  const Piece piece = this_piece(p);
  const std::uint64_t best = max_of_pieces(p.raw_best + piece.row * p.pieces, p.pieces);
  const WeightRule rule{ranked_logit(best), 1.0f, 0};
  std::uint64_t sum = 0;
  if (best != 0) {
    for_each_logit<kDepth>(p.args.logits + piece.row * p.args.ld, piece.begin, piece.end,
                           [&](int, float x) { sum += rule.weight(x); });
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x >= kWarp) return;
  sum = warp_sum(threadIdx.x < kScanThreads / kWarp ? of_warps[threadIdx.x] : 0);
  if (threadIdx.x == 0) p.raw_sum[blockIdx.x] = sum;
}

// Counts and weighs the tokens of each bin, in shared memory first. Greedy rows have no histogram.
__global__ void __launch_bounds__(kHistogramThreads) histogram_kernel(const __grid_constant__ SamplePlan p) {
  __shared__ std::uint32_t count[kBins];
  __shared__ std::uint32_t low[kBins];
  __shared__ std::uint32_t high[kBins];
  const Piece piece = this_piece(p);
  const SampleRow row = p.args.row[piece.row];
  if (is_greedy(row)) return;
  const std::uint64_t best = max_of_pieces(p.best + piece.row * p.pieces, p.pieces);
  if (best == 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kHistogramThreads)
    count[i] = low[i] = high[i] = 0;
  __syncthreads();
  const WeightRule rule = weight_rule(row, ranked_logit(best));
  const RowLogits logits = row_logits(p.args, piece.row, row);
  for_each_logit<kDepth>(logits.logits, piece.begin, piece.end, [&](int id, float x) {
    const float distance = rule.distance(logits.penalised(id, x));
    const std::uint64_t weight = rule.weight_at(distance);
    if (weight != 0) add_to_bin(count, low, high, bin_of(distance), weight);
  });
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kHistogramThreads) {
    if (count[i] == 0) continue;
    const std::uint64_t weight = std::uint64_t{high[i]} << 32 | low[i];
    atomicAdd(p.bin_count + piece.row * kBins + i, count[i]);
    atomicAdd(reinterpret_cast<unsigned long long*>(p.bin_weight + piece.row * kBins + i),
              static_cast<unsigned long long>(weight));
  }
}

// The tokens of rows that are all greedy: a warp each.
__global__ void __launch_bounds__(kWarp) greedy_kernel(const __grid_constant__ SamplePlan p) {
  const std::int64_t r = blockIdx.x;
  finish_row(p, r, p.args.row[r], ranked_id(max_of_pieces(p.best + r * p.pieces, p.pieces)));
}

// A block a list.
__global__ void __launch_bounds__(kSeenThreads) seen_kernel(const __grid_constant__ SeenArgs a) {
  const std::int64_t words = seen_words(a.vocab);
  std::uint32_t* const seen = a.seen + a.slot[blockIdx.x] * words;
  if (!a.keep) {
    for (std::int64_t i = threadIdx.x; i < words; i += kSeenThreads) seen[i] = 0;
    __syncthreads();
  }
  const std::int64_t end = a.offsets[blockIdx.x + 1];
  for (std::int64_t i = a.offsets[blockIdx.x] + threadIdx.x; i < end; i += kSeenThreads) {
    const std::int32_t token = a.tokens[i];
    if (token >= 0 && token < a.vocab) atomicOr(seen + (token >> 5), 1u << (token & 31));
  }
}

int pieces_of(std::int64_t vocab) {
  return static_cast<int>((vocab + kPieceLogits - 1) / kPieceLogits);
}

bool is_usable(const SampleArgs& a) {
  if (a.vocab < 1 || a.vocab > kMostSampleVocab || a.rows > 2147483647 / pieces_of(a.vocab)) return false;
  if (a.logits == nullptr || a.row == nullptr || a.token == nullptr || a.workspace == nullptr) return false;
  if (reinterpret_cast<std::uintptr_t>(a.workspace) % sizeof(std::uint64_t) != 0) return false;
  if (a.rows > 1 && a.ld < a.vocab) return false;
  if (a.top_n < 0 || a.top_n > kMostTopLogprobs) return false;
  return a.top_n == 0 || (a.vocab <= kMostTopVocab && a.top_id != nullptr && a.top_logprob != nullptr);
}

}  // namespace

std::int64_t sample_workspace_bytes(std::int64_t rows, std::int64_t vocab) {
  constexpr std::int64_t kBinBytes = sizeof(std::uint64_t) + sizeof(std::uint32_t);
  return rows * (std::int64_t{pieces_of(vocab)} * 3 * static_cast<std::int64_t>(sizeof(std::uint64_t)) +
                 kBins * kBinBytes);
}

int sample(const SampleArgs& args, void* stream) {
  if (args.rows == 0) return cudaSuccess;
  if (args.rows < 0 || !is_usable(args)) return cudaErrorInvalidValue;
  const auto handle = static_cast<cudaStream_t>(stream);
  SamplePlan plan;
  plan.args = args;
  plan.pieces = pieces_of(args.vocab);
  const std::int64_t pieces = args.rows * plan.pieces;
  plan.best = static_cast<std::uint64_t*>(args.workspace);
  plan.raw_best = plan.best + pieces;
  plan.raw_sum = plan.raw_best + pieces;
  plan.bin_weight = plan.raw_sum + pieces;
  plan.bin_count = reinterpret_cast<std::uint32_t*>(plan.bin_weight + args.rows * kBins);
  const auto blocks = static_cast<unsigned>(pieces);
  scan_kernel<<<blocks, kScanThreads, 0, handle>>>(plan);
  if (args.logprob != nullptr || args.top_n > 0) raw_sum_kernel<<<blocks, kScanThreads, 0, handle>>>(plan);
  if (args.all_greedy) {
    greedy_kernel<<<static_cast<unsigned>(args.rows), kWarp, 0, handle>>>(plan);
  } else {
    histogram_kernel<<<blocks, kHistogramThreads, 0, handle>>>(plan);
    const cudaError_t status = launch_pick(plan, handle);
    if (status != cudaSuccess) return status;
  }
  if (args.top_n > 0) {
    const cudaError_t status = launch_top(plan, handle);
    if (status != cudaSuccess) return status;
  }
  return cudaGetLastError();
}

int mark_seen(const SeenArgs& args, void* stream) {
  if (args.lists == 0) return cudaSuccess;
  if (args.lists < 0 || args.lists > 2147483647 || args.vocab < 1 || args.vocab > kMostSampleVocab ||
      args.tokens == nullptr || args.offsets == nullptr || args.slot == nullptr || args.seen == nullptr) {
    return cudaErrorInvalidValue;
  }
  seen_kernel<<<static_cast<unsigned>(args.lists), kSeenThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      args);
  return cudaGetLastError();
}

}  // namespace slidesparse::cuda
