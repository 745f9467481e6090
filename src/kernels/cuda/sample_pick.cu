#include "kernels/cuda/sample.cuh"

// Rules 6 to 8 of core/sample_rules.h for rows that are not greedy, a block a row. All three ask the same
// thing: at which token, in descending order, does a running sum (of tokens, or of weights) exceed a value?
// The histogram names the bin; then the tokens of that bin, and of all before it when they are few, are
// collected and sorted. A bin with too many tokens is searched by the bits of its keys instead.
namespace slidesparse::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;
constexpr int kDepth = 2;
constexpr int kList = 2048;  // tokens; two a thread
static_assert(kBins == 2 * kThreads && kList == 2 * kThreads);

struct Sum {
  std::uint64_t weight;
  std::uint32_t count;
  __device__ Sum operator+(const Sum& other) const { return {weight + other.weight, count + other.count}; }
};

// What is looked for: the first item whose running sum, with it, exceeds `value`.
struct Target {
  bool by_count;
  std::uint64_t value;
  __device__ std::uint64_t of(const Sum& sum) const { return by_count ? sum.count : sum.weight; }
  __device__ Target behind(const Sum& sum) const { return {by_count, value - of(sum)}; }
};

struct Found {
  int item;    // -1: the sum of all does not exceed it
  Sum before;  // running sum without it
  Sum with;    // and with it
};

// A token, and the sum of weights up to it.
struct Cut {
  int id;
  std::uint64_t weight;
};

struct Shared {
  std::uint64_t list[kList];  // ranked(), descending; 0 behind the end
  std::uint32_t count[kBins];
  std::uint32_t low[kBins];
  std::uint32_t high[kBins];
  Sum of_warps[kWarps];
  Sum before;
  Sum with;
  int item;
  int list_size;
};

// Of items 2t (`first`) and 2t + 1 (`second`), which thread t brings.
__device__ Found find_first(const Sum& first, const Sum& second, const Target& target, Shared& s) {
  const int t = static_cast<int>(threadIdx.x);
  const int lane = t % kWarp;
  Sum sum = first + second;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const Sum other{__shfl_up_sync(0xffffffffu, sum.weight, step),
                    __shfl_up_sync(0xffffffffu, sum.count, step)};
    if (lane >= step) sum = sum + other;
  }
  __syncthreads();  // nobody reads the last answer any more
  if (lane == kWarp - 1) s.of_warps[t / kWarp] = sum;
  if (t == 0) s.item = -1;
  __syncthreads();
  Sum base{};
  for (int i = 0; i < t / kWarp; ++i) base = base + s.of_warps[i];
  const Sum second_with = base + sum;
  const Sum first_with{second_with.weight - second.weight, second_with.count - second.count};
  const Sum before{first_with.weight - first.weight, first_with.count - first.count};
  if (target.of(before) <= target.value && target.value < target.of(second_with)) {
    const bool is_first = target.value < target.of(first_with);
    s.item = is_first ? 2 * t : 2 * t + 1;
    s.before = is_first ? before : first_with;
    s.with = is_first ? first_with : second_with;
  }
  __syncthreads();
  return {s.item, s.before, s.with};
}

// One row's search. Members that are not shared memory are the same in every thread.
class RowSearch {
 public:
  __device__ RowSearch(const SamplePlan& p, std::int64_t r, const SampleRow& row, float largest, Shared& s)
      : s_(s),
        rule_(weight_rule(row, largest)),
        logits_(row_logits(p.args, r, row)),
        vocab_(static_cast<int>(p.args.vocab)) {
    const int t = static_cast<int>(threadIdx.x);
    const auto* const weights = p.bin_weight + r * kBins;
    const auto* const counts = p.bin_count + r * kBins;
    first_ = {weights[2 * t], counts[2 * t]};
    second_ = {weights[2 * t + 1], counts[2 * t + 1]};
  }

  // Over the whole row: the target must be below its sum.
  __device__ Cut locate(const Target& target) {
    const Found bin = find_first(first_, second_, target, s_);
    if (bin.item < list_begin_ || bin.item >= list_end_) {
      if (bin.with.count <= kList) {
        collect(0, bin.item + 1, Sum{});
      } else if (bin.with.count - bin.before.count <= kList) {
        collect(bin.item, bin.item + 1, bin.before);
      } else {
        return search_keys(bin, target);
      }
    }
    const int t = static_cast<int>(threadIdx.x);
    const Found token = find_first(listed(2 * t), listed(2 * t + 1), target.behind(list_base_), s_);
    return {ranked_id(s_.list[token.item]), list_base_.weight + token.with.weight};
  }

  // Of all tokens.
  __device__ Sum total() {
    // Nothing exceeds the largest number, so only the sum is of interest.
    find_first(first_, second_, {false, ~std::uint64_t{0}}, s_);
    Sum sum{};
    for (int i = 0; i < kWarps; ++i) sum = sum + s_.of_warps[i];
    return sum;
  }

 private:
  __device__ Sum listed(int i) const {
    const std::uint64_t rank = s_.list[i];
    return rank == 0 ? Sum{} : Sum{rule_.weight(ranked_logit(rank)), 1};
  }

  // each(id, x, weight) for the tokens of bins [begin, end) that weigh something.
  template <typename Each>
  __device__ void for_each_of_bins(int begin, int end, Each&& each) const {
    for_each_logit<kDepth>(logits_.logits, 0, vocab_, [&](int id, float raw) {
      const float x = logits_.penalised(id, raw);
      const float distance = rule_.distance(x);
      if (!(distance > -kBins / kBinsPerUnit)) return;
      const int bin = bin_of(distance);
      if (bin < begin || bin >= end) return;
      const std::uint64_t weight = rule_.weight_at(distance);
      if (weight != 0) each(id, x, weight);
    });
  }

  // Fills the list with the tokens of bins [begin, end), which fit, and sorts it. `base`: the sum before
  // them.
  __device__ void collect(int begin, int end, const Sum& base) {
    const int t = static_cast<int>(threadIdx.x);
    if (t == 0) s_.list_size = 0;
    __syncthreads();
    for_each_of_bins(begin, end, [&](int id, float x, std::uint64_t) {
      s_.list[atomicAdd(&s_.list_size, 1)] = ranked(x, id);
    });
    __syncthreads();
    for (int i = s_.list_size + t; i < kList; i += kThreads) s_.list[i] = 0;
    int length = 2;
    while (length < s_.list_size) length *= 2;
    __syncthreads();
    sort(length);
    list_begin_ = begin;
    list_end_ = end;
    list_base_ = base;
  }

  // Bitonic, descending; `length` is a power of two, each thread has one pair at most.
  __device__ void sort(int length) {
    const int t = static_cast<int>(threadIdx.x);
    for (int run = 2; run <= length; run *= 2) {
      for (int step = run / 2; step > 0; step /= 2) {
        const int i = 2 * t - (t & (step - 1));
        if (i < length) {
          const std::uint64_t a = s_.list[i];
          const std::uint64_t b = s_.list[i + step];
          const bool ascending = (i & run) != 0;
          if (ascending ? a > b : a < b) {
            s_.list[i] = b;
            s_.list[i + step] = a;
          }
        }
        __syncthreads();
      }
    }
  }

  // The same by the bits of keys, 11, 11 and 10 of them, within a bin; then equal logits by id.
  __device__ Cut search_keys(const Found& bin, const Target& target) {
    const int t = static_cast<int>(threadIdx.x);
    Sum base = bin.before;
    std::uint32_t key = 0;  // the bits found so far
    for (int shift = 21; shift >= 0; shift = shift == 21 ? 10 : shift - 10) {
      const int bits = shift == 0 ? 10 : 11;
      __syncthreads();
      for (int i = t; i < kBins; i += kThreads) s_.count[i] = s_.low[i] = s_.high[i] = 0;
      __syncthreads();
      for_each_of_bins(bin.item, bin.item + 1, [&](int, float x, std::uint64_t weight) {
        const std::uint32_t own = logit_key(x);
        if (static_cast<std::uint32_t>(std::uint64_t{own} >> (shift + bits)) != key) return;
        const auto digit = static_cast<int>(own >> shift & ((1u << bits) - 1));
        add_to_bin(s_.count, s_.low, s_.high, kBins - 1 - digit, weight);
      });
      __syncthreads();
      const Found digit = find_first(digit_sum(2 * t), digit_sum(2 * t + 1), target.behind(base), s_);
      base = base + digit.before;
      key = key << bits | static_cast<std::uint32_t>(kBins - 1 - digit.item);
    }
    const std::uint64_t weight = rule_.weight(logit_of_key(key));
    const std::uint64_t rest = target.behind(base).value;
    const std::uint64_t number = target.by_count ? rest : rest / weight;
    return {id_with_key(key, static_cast<std::uint32_t>(number)), base.weight + (number + 1) * weight};
  }
  __device__ Sum digit_sum(int i) const { return {std::uint64_t{s_.high[i]} << 32 | s_.low[i], s_.count[i]}; }

  // The id of token `number`, by id, among those with this key. Each warp counts in a part of the row.
  __device__ int id_with_key(std::uint32_t key, std::uint32_t number) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int part = (vocab_ + kThreads - 1) / kThreads * kWarp;
    const int begin = warp * part;
    const int end = min(vocab_, begin + part);
    const auto is_equal = [&](int i) {
      const int id = i + lane;
      return id < end && logit_key(logits_.penalised(id, logits_.logits[id])) == key;
    };
    std::uint32_t count = 0;
    for (int i = begin; i < end; i += kWarp) count += __popc(__ballot_sync(0xffffffffu, is_equal(i)));
    if (lane == 0) s_.of_warps[warp].count = count;
    __syncthreads();
    std::uint32_t before = 0;
    for (int i = 0; i < warp; ++i) before += s_.of_warps[i].count;
    if (before <= number && number < before + count) {
      for (int i = begin; i < end; i += kWarp) {
        const bool equal = is_equal(i);
        const std::uint32_t all = __ballot_sync(0xffffffffu, equal);
        if (equal && before + __popc(all & ((1u << lane) - 1)) == number) s_.item = i + lane;
        before += __popc(all);
      }
    }
    __syncthreads();
    return s_.item;
  }

  Shared& s_;
  WeightRule rule_;
  RowLogits logits_;
  int vocab_;
  Sum first_;  // of bins 2t and 2t + 1: each thread's own
  Sum second_;
  int list_begin_ = 0;  // bins in the list
  int list_end_ = 0;
  Sum list_base_{};
};

__global__ void __launch_bounds__(kThreads) pick_kernel(const __grid_constant__ SamplePlan p) {
  __shared__ Shared s;
  const std::int64_t r = blockIdx.x;
  const SampleRow row = p.args.row[r];
  const std::uint64_t best = max_of_pieces(p.best + r * p.pieces, p.pieces);
  int token = ranked_id(best);
  if (best != 0 && !is_greedy(row)) {
    RowSearch search(p, r, row, ranked_logit(best), s);
    const Sum all = search.total();
    std::uint64_t sum = all.weight;
    if (row.top_k > 0 && static_cast<std::uint32_t>(row.top_k) < all.count)
      sum = search.locate({true, static_cast<std::uint64_t>(row.top_k - 1)}).weight;
    if (row.top_p < 1) sum = search.locate({false, top_p_weight(row.top_p, sum) - 1}).weight;
    token = search.locate({false, drawn_weight(row, sum)}).id;
  }
  if (threadIdx.x < kWarp) finish_row(p, r, row, token);
}

}  // namespace

cudaError_t launch_pick(const SamplePlan& plan, cudaStream_t stream) {
  pick_kernel<<<static_cast<unsigned>(plan.args.rows), kThreads, 0, stream>>>(plan);
  return cudaGetLastError();
}

}  // namespace slidesparse::cuda
