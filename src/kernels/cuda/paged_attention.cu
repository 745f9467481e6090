#include "kernels/cuda/paged_attention.h"

#include <algorithm>
#include <cmath>

#include "kernels/cuda/attention_plan.cuh"

namespace slidesparse::cuda {
namespace {

// Blocks that fill the largest cards, two a multiprocessor. A constant, not the card's own number: then
// results and workspace are the same everywhere.
constexpr std::int64_t kFullCard = 264;
// A part shorter than this costs more to join than it brings, even on a card that is not full.
constexpr std::int64_t kShortestPart = 128;
// So many blocks even out contexts of different lengths, as long as parts keep this length.
constexpr std::int64_t kEvenCard = 4 * kFullCard;
constexpr std::int64_t kUsualPart = 512;
constexpr std::int64_t kMostSplits = 128;
constexpr float kLog2E = 1.4426950408889634f;

std::int64_t decode_splits(const PagedAttentionArgs& a) {
  const std::int64_t blocks = std::max<std::int64_t>(1, a.sequences * a.kv_heads);
  const std::int64_t full = std::min(kFullCard / blocks, a.longest_context / kShortestPart);
  const std::int64_t even = std::min((kEvenCard + blocks - 1) / blocks, a.longest_context / kUsualPart);
  return std::clamp<std::int64_t>(std::max(full, even), 1, kMostSplits);
}

std::int64_t part_floats(const PagedAttentionArgs& a, std::int64_t splits) {
  return splits == 1 ? 0 : a.sequences * a.heads * splits * a.head_dim;
}

bool is_aligned(const void* pointer) {
  return pointer != nullptr && reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

bool has_shape(const PagedAttentionArgs& a) {
  if (a.head_dim != 64 && a.head_dim != 128) return false;
  if (a.heads <= 0 || a.kv_heads <= 0 || a.heads > 65536) return false;
  return a.heads % a.kv_heads == 0 && a.heads / a.kv_heads <= 16;
}

// The positions that a block table can name, for which the division by page_size is exact.
bool has_pages(const PagedAttentionArgs& a) {
  const PagedCache& cache = a.cache;
  constexpr std::int64_t kMost = 2147483647;
  if (cache.dtype != DType::kBF16 && cache.dtype != DType::kF8E4M3) return false;
  if (cache.page_size < kKeyGroup || cache.page_size % kKeyGroup != 0 || cache.page_size > (1 << 20))
    return false;
  if (cache.pages < 0 || cache.pages > kMost / cache.page_size) return false;
  if (a.max_blocks < 0 || a.max_blocks > kMost / cache.page_size) return false;
  if (a.max_blocks * cache.page_size >= (std::int64_t{1} << 38) / cache.page_size) return false;
  return a.longest_context <= a.max_blocks * cache.page_size;
}

bool is_valid(const PagedAttentionArgs& a) {
  if (!has_shape(a) || !has_pages(a)) return false;
  if (!is_aligned(a.q) || !is_aligned(a.out) || !is_aligned(a.cache.keys) || !is_aligned(a.cache.values)) {
    return false;
  }
  if (a.cu_seqlens == nullptr || a.context_lengths == nullptr || a.block_tables == nullptr) return false;
  if (a.ldq % 8 != 0 || a.ldout % 8 != 0) return false;
  if (a.m > 1 && (a.ldq < a.heads * a.head_dim || a.ldout < a.heads * a.head_dim)) return false;
  if (a.m > 2147483647 || a.longest_query > a.longest_context) return false;
  const float scale = a.cache.dtype == DType::kBF16 ? a.scale : a.scale * a.cache.key_scale;
  if (!(scale > 0.0f) || !std::isfinite(scale)) return false;
  const std::int64_t bytes = paged_attention_workspace(a);
  return bytes == 0 || (is_aligned(a.workspace) && a.workspace_bytes >= bytes);
}

AttentionPlan make_plan(const PagedAttentionArgs& args) {
  AttentionPlan plan;
  plan.args = args;
  plan.page_magic = 0xffffffffu / static_cast<std::uint32_t>(args.cache.page_size / 8) + 1;
  plan.group = static_cast<int>(args.heads / args.kv_heads);
  plan.splits = static_cast<int>(decode_splits(args));
  plan.scale = args.scale * kLog2E;
  if (args.cache.dtype == DType::kF8E4M3) {
    plan.scale *= args.cache.key_scale;
    plan.value_scale = args.cache.value_scale;
  }
  plan.parts = static_cast<float*>(args.workspace);
  plan.stats = plan.parts + part_floats(args, plan.splits);
  return plan;
}

}  // namespace

std::int64_t paged_attention_workspace(const PagedAttentionArgs& args) {
  const std::int64_t splits = decode_splits(args);
  const std::int64_t stats = splits == 1 ? 0 : args.sequences * args.heads * splits * 2;
  return (part_floats(args, splits) + stats) * static_cast<std::int64_t>(sizeof(float));
}

int paged_attention(const PagedAttentionArgs& args, void* stream) {
  if (args.m < 0 || args.sequences < 0 || args.longest_query < 0) return cudaErrorInvalidValue;
  if (args.m == 0 || args.sequences == 0 || args.longest_query == 0) return cudaSuccess;
  if (!is_valid(args)) return cudaErrorInvalidValue;
  const auto handle = static_cast<cudaStream_t>(stream);
  const AttentionPlan plan = make_plan(args);
  // In a mixed batch every sequence has its kernel, as on the CPU.
  if (args.longest_query > 1) {
    const cudaError_t status =
        args.head_dim == 64 ? launch_prefill_64(plan, handle) : launch_prefill_128(plan, handle);
    if (status != cudaSuccess) return status;
  }
  return launch_decode(plan, handle);
}

}  // namespace slidesparse::cuda
