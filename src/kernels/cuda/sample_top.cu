#include "kernels/cuda/sample.cuh"

// The n likeliest tokens of each row and their log probabilities, a block a row. Each thread finds the best
// of its share; the n-th best of these is a floor that exactly the shares of n threads can exceed. What
// reaches it is collected, and the n best of that are picked one after the other.
namespace slidesparse::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;
constexpr int kDepth = 4;
// Tokens of a thread's share at most: in 16-byte pieces, and one before and one behind them.
constexpr std::int64_t most_of_share(std::int64_t vocab) {
  return (vocab / 4 + kThreads - 1) / kThreads * 4 + 2;
}
// The list, beside what the kernel has of itself.
static_assert(kMostTopLogprobs * most_of_share(kMostTopVocab) * sizeof(std::uint64_t) <= 47 * 1024);

__device__ std::uint64_t block_max(std::uint64_t value, std::uint64_t* of_warps) {
  value = warp_max(value);
  __syncthreads();  // nobody reads the last answer any more
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  return warp_max(of_warps[threadIdx.x % kWarp]);
}

__global__ void __launch_bounds__(kThreads) top_kernel(const __grid_constant__ SamplePlan p) {
  extern __shared__ std::uint64_t list[];
  __shared__ std::uint64_t of_warps[kWarps];
  __shared__ int size;
  static_assert(kWarps == kWarp);
  const SampleArgs& a = p.args;
  const std::int64_t r = blockIdx.x;
  const int t = static_cast<int>(threadIdx.x);
  const int vocab = static_cast<int>(a.vocab);
  const float* const logits = a.logits + r * a.ld;
  if (t == 0) size = 0;

  std::uint64_t own = 0;
  for_each_logit<kDepth>(logits, 0, vocab, [&](int id, float x) {
    const std::uint64_t rank = ranked(x, id);
    own = rank > own ? rank : own;
  });
  std::uint64_t least = 0;
  for (int i = 0; i < a.top_n; ++i) {
    least = block_max(own, of_warps);
    if (own == least) own = 0;
  }
  // 0: fewer than n threads have anything, and all that can be chosen is collected.
  least = least == 0 ? 1 : least;
  for_each_logit<kDepth>(logits, 0, vocab, [&](int id, float x) {
    const std::uint64_t rank = ranked(x, id);
    if (rank >= least) list[atomicAdd(&size, 1)] = rank;
  });
  __syncthreads();

  const float largest = ranked_logit(max_of_pieces(p.raw_best + r * p.pieces, p.pieces));
  const std::uint64_t sum = sum_of_pieces(p.raw_sum + r * p.pieces, p.pieces);
  std::uint64_t last = ~std::uint64_t{0};
  for (int i = 0; i < a.top_n; ++i) {
    std::uint64_t next = 0;
    for (int j = t; j < size; j += kThreads) {
      if (list[j] < last && list[j] > next) next = list[j];
    }
    last = block_max(next, of_warps);
    if (t != 0) continue;
    a.top_id[r * a.top_n + i] = ranked_id(last);
    a.top_logprob[r * a.top_n + i] =
        last == 0 ? -INFINITY : log_probability(ranked_logit(last), largest, sum);
  }
}

}  // namespace

cudaError_t launch_top(const SamplePlan& plan, cudaStream_t stream) {
  const std::int64_t bytes =
      plan.args.top_n * most_of_share(plan.args.vocab) * static_cast<std::int64_t>(sizeof(std::uint64_t));
  top_kernel<<<static_cast<unsigned>(plan.args.rows), kThreads, static_cast<std::size_t>(bytes), stream>>>(
      plan);
  return cudaGetLastError();
}

}  // namespace slidesparse::cuda
