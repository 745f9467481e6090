#include "ops/attention.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/fail.h"
#include "core/numeric.h"
#include "core/parallel.h"
#include "kernels/cpu/ops_attention.h"
#include "ops/checks.h"

namespace slidesparse {
namespace {

// Sequences are packed together until their packed keys and values reach this, so that scratch stays bounded
// and short sequences still share one parallel loop. One sequence alone may take more.
constexpr std::int64_t kPackedLimit = std::int64_t{32} << 20;
// Products (tokens x keys x heads x head_dim) below which one thread does everything.
constexpr std::int64_t kSerialProducts = std::int64_t{1} << 16;

struct Sequence {
  std::int64_t first_token = 0;  // row of this step
  std::int64_t tokens = 0;       // new ones
  std::int64_t context = 0;
  std::int64_t first_pointer = 0;
  std::byte* packed = nullptr;
};

std::int64_t sequences_of(const AttentionBatch& batch) {
  return static_cast<std::int64_t>(batch.context_lengths.size());
}

Sequence sequence_of(const AttentionBatch& batch, std::int64_t s) {
  const auto i = static_cast<std::size_t>(s);
  Sequence sequence;
  sequence.first_token = batch.cu_seqlens[i];
  sequence.tokens = batch.cu_seqlens[i + 1] - batch.cu_seqlens[i];
  sequence.context = batch.context_lengths[i];
  return sequence;
}

void check_batch(const char* op, const AttentionBatch& batch, std::int64_t tokens, const KvPages& pages) {
  const std::int64_t sequences = sequences_of(batch);
  check_device(op, {pages.keys.device, nullptr, nullptr});
  require(pages.keys.rank() == 4 && pages.keys.dtype == DType::kBF16 && pages.keys.is_contiguous() &&
              pages.values.shape == pages.keys.shape && pages.values.dtype == DType::kBF16 &&
              pages.values.is_contiguous(),
          "{}: pages must be contiguous BF16 [pages, page_size, kv_heads, head_dim]", op);
  require(static_cast<std::int64_t>(batch.cu_seqlens.size()) == sequences + 1 &&
              batch.cu_seqlens.front() == 0 && batch.cu_seqlens.back() == tokens &&
              static_cast<std::int64_t>(batch.block_tables.size()) == sequences * batch.max_blocks,
          "{}: {} sequences, {} offsets, {} tokens, {} block table entries of {} a sequence", op, sequences,
          batch.cu_seqlens.size(), tokens, batch.block_tables.size(), batch.max_blocks);
  const std::int64_t page_size = pages.keys.dim(1);
  for (std::int64_t s = 0; s < sequences; ++s) {
    const Sequence sequence = sequence_of(batch, s);
    if (sequence.tokens < 0 || sequence.tokens > sequence.context ||
        sequence.context > batch.max_blocks * page_size) {
      fail_input("sequence {}: {} new tokens in a context of {}, with room for {} ({} pages of {})", s,
                 sequence.tokens, sequence.context, batch.max_blocks * page_size, batch.max_blocks,
                 page_size);
    }
    for (std::int64_t b = 0; b < ceil_div(sequence.context, page_size); ++b) {
      const std::int32_t page = batch.block_tables[static_cast<std::size_t>(s * batch.max_blocks + b)];
      if (page < 0 || page >= pages.keys.dim(0)) {
        fail_input("sequence {}: block {} is page {} of a cache of {}", s, b, page, pages.keys.dim(0));
      }
    }
  }
}

// Runs body(task, slot) for every task on all threads, each taking the next one when it is free; slot <
// thread_count().
template <typename Body>
void run_tasks(std::int64_t tasks, bool parallel, const Body& body) {
  std::atomic<std::int64_t> next{0};
  parallel_for(parallel ? thread_count() : 1, 1, [&](std::int64_t slot, std::int64_t) {
    for (std::int64_t i = next++; i < tasks; i = next++) body(i, slot);
  });
}

// Everything that the two phases of one call share.
struct Call {
  const kernels::AttentionKernels& kernels;
  const TensorView& q;
  const TensorView& out;
  const KvPages& pages;
  std::int64_t heads;
  std::int64_t kv_heads;
  std::int64_t head_dim;
  float scale;
  const std::uint16_t** keys;  // of all sequences, [sum of contexts]
  const std::uint16_t** values;

  std::int64_t group() const { return heads / kv_heads; }
  const std::uint16_t* q_at(std::int64_t token, std::int64_t head) const {
    return q.as<std::uint16_t>() + token * q.stride(0) + head * q.stride(1);
  }
  std::uint16_t* out_at(std::int64_t token, std::int64_t head) const {
    return out.as<std::uint16_t>() + token * out.stride(0) + head * out.stride(1);
  }
  kernels::KeyValueRows rows(const Sequence& sequence, std::int64_t kv_head) const {
    return {keys + sequence.first_pointer, values + sequence.first_pointer, kv_head * head_dim};
  }
};

void fill_pointers(const Call& call, const AttentionBatch& batch, const std::vector<Sequence>& sequences) {
  const std::int64_t page_size = call.pages.keys.dim(1);
  const std::int64_t row = call.kv_heads * call.head_dim;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const std::int32_t* table = batch.block_tables.data() + static_cast<std::int64_t>(s) * batch.max_blocks;
    const std::int64_t first = sequences[s].first_pointer;
    for (std::int64_t t = 0; t < sequences[s].context; ++t) {
      const std::int64_t place = (table[t / page_size] * page_size + t % page_size) * row;
      call.keys[first + t] = call.pages.keys.as<const std::uint16_t>() + place;
      call.values[first + t] = call.pages.values.as<const std::uint16_t>() + place;
    }
  }
}

std::int64_t packed_blocks(const Sequence& sequence) {
  return ceil_div(sequence.context, kernels::kKeyBlock);
}

void attend_prefill(const Context& context, const Call& call, std::span<Sequence> sequences) {
  const std::int64_t block_bytes = call.kernels.packed_bytes(call.head_dim);
  struct PackTask {
    const Sequence* sequence;
    std::int64_t kv_head, block;
  };
  struct QueryTask {
    const Sequence* sequence;
    std::int64_t head, first, rows;
  };
  std::vector<PackTask> packs;
  std::vector<QueryTask> queries;
  std::int64_t products = 0;
  for (Sequence& sequence : sequences) {
    const std::int64_t blocks = packed_blocks(sequence);
    sequence.packed = static_cast<std::byte*>(
        context.arena->allocate(static_cast<std::size_t>(blocks * call.kv_heads * block_bytes)));
    for (std::int64_t h = 0; h < call.kv_heads; ++h) {
      for (std::int64_t b = 0; b < blocks; ++b) packs.push_back({&sequence, h, b});
      // The last queries see most keys: they go first, so that the threads end together.
      for (std::int64_t end = sequence.tokens; end > 0;
           end -= std::min<std::int64_t>(end, kernels::kQueryBlock)) {
        const std::int64_t first = std::max<std::int64_t>(0, end - kernels::kQueryBlock);
        for (std::int64_t g = 0; g < call.group(); ++g) {
          queries.push_back({&sequence, h * call.group() + g, first, end - first});
        }
      }
    }
    products += sequence.tokens * sequence.context * call.heads * call.head_dim;
  }
  const bool parallel = products > kSerialProducts;
  run_tasks(static_cast<std::int64_t>(packs.size()), parallel, [&](std::int64_t i, std::int64_t) {
    const PackTask& task = packs[static_cast<std::size_t>(i)];
    const std::int64_t first = task.block * kernels::kKeyBlock;
    const auto count =
        static_cast<int>(std::min<std::int64_t>(kernels::kKeyBlock, task.sequence->context - first));
    call.kernels.pack(
        call.rows(*task.sequence, task.kv_head), first, count, call.head_dim,
        task.sequence->packed + (task.kv_head * packed_blocks(*task.sequence) + task.block) * block_bytes);
  });
  const std::int64_t scratch_bytes = round_up(call.kernels.attend_scratch_bytes(call.head_dim), 64);
  auto* scratch = static_cast<std::byte*>(
      context.arena->allocate(static_cast<std::size_t>(scratch_bytes * thread_count())));
  run_tasks(static_cast<std::int64_t>(queries.size()), parallel, [&](std::int64_t i, std::int64_t slot) {
    const QueryTask& query = queries[static_cast<std::size_t>(i)];
    const Sequence& sequence = *query.sequence;
    kernels::AttendTask task;
    task.q = call.q_at(sequence.first_token + query.first, query.head);
    task.q_stride = call.q.stride(0);
    task.rows = static_cast<int>(query.rows);
    task.first_position = sequence.context - sequence.tokens + query.first;
    task.head_dim = call.head_dim;
    task.scale = call.scale;
    task.out = call.out_at(sequence.first_token + query.first, query.head);
    task.out_stride = call.out.stride(0);
    std::byte* own = scratch + slot * scratch_bytes;
    const std::byte* packed =
        sequence.packed + query.head / call.group() * packed_blocks(sequence) * block_bytes;
    call.kernels.attend_begin(task, own);
    for (std::int64_t first = 0; first < task.keys(); first += kernels::kKeyBlock, packed += block_bytes)
      call.kernels.attend_block(task, first, packed, own);
    call.kernels.attend_end(task, own);
  });
}

// Scratch of one thread: that of a task, and a block of keys and values.
std::int64_t decode_scratch_bytes(const kernels::AttentionKernels& kernels, std::int64_t head_dim) {
  return round_up(kernels.attend_scratch_bytes(head_dim), 64) + kernels.packed_bytes(head_dim);
}

// One token a sequence: a task is the heads that share keys and values. Each block is packed when its turn
// comes and is used once.
void attend_decode(const Context& context, const Call& call, const std::vector<const Sequence*>& sequences) {
  std::int64_t products = 0;
  for (const Sequence* sequence : sequences) products += sequence->context * call.heads * call.head_dim;
  const std::int64_t scratch_bytes = decode_scratch_bytes(call.kernels, call.head_dim);
  auto* scratch = static_cast<std::byte*>(
      context.arena->allocate(static_cast<std::size_t>(scratch_bytes * thread_count())));
  const std::int64_t parts = ceil_div(call.group(), kernels::kQueryBlock);
  const std::int64_t tasks = static_cast<std::int64_t>(sequences.size()) * call.kv_heads * parts;
  run_tasks(tasks, products > kSerialProducts, [&](std::int64_t i, std::int64_t slot) {
    const Sequence& sequence = *sequences[static_cast<std::size_t>(i / (call.kv_heads * parts))];
    const std::int64_t kv_head = i / parts % call.kv_heads;
    const std::int64_t head = kv_head * call.group() + i % parts * kernels::kQueryBlock;
    kernels::AttendTask task;
    task.q = call.q_at(sequence.first_token, head);
    task.q_stride = call.q.stride(1);
    task.rows =
        static_cast<int>(std::min<std::int64_t>(kernels::kQueryBlock, (kv_head + 1) * call.group() - head));
    task.first_position = sequence.context - 1;
    task.step = 0;
    task.head_dim = call.head_dim;
    task.scale = call.scale;
    task.out = call.out_at(sequence.first_token, head);
    task.out_stride = call.out.stride(1);
    std::byte* packed = scratch + slot * scratch_bytes;
    std::byte* own = packed + call.kernels.packed_bytes(call.head_dim);
    call.kernels.attend_begin(task, own);
    for (std::int64_t first = 0; first < task.keys(); first += kernels::kKeyBlock) {
      const auto count = static_cast<int>(std::min<std::int64_t>(kernels::kKeyBlock, task.keys() - first));
      call.kernels.pack(call.rows(sequence, kv_head), first, count, call.head_dim, packed);
      call.kernels.attend_block(task, first, packed, own);
    }
    call.kernels.attend_end(task, own);
  });
}

// Of keys or values, into their page.
void copy_row(const std::uint16_t* from, std::int64_t count, bool rounded, std::uint16_t* to) {
  if (!rounded) {
    std::memcpy(to, from, static_cast<std::size_t>(2 * count));
    return;
  }
  for (std::int64_t i = 0; i < count; ++i)
    to[i] = float_to_bf16(e4m3_to_float(float_to_e4m3(bf16_to_float(from[i]))));
}

}  // namespace

void write_kv(const Context& context, const AttentionBatch& batch, const TensorView& k, const TensorView& v,
              const KvPages& pages) {
  check_device("write_kv", context);
  check_heads("write_kv", k);
  check_heads("write_kv", v);
  check_batch("write_kv", batch, k.dim(0), pages);
  require(k.shape == v.shape && k.dim(1) == pages.keys.dim(2) && k.dim(2) == pages.keys.dim(3) &&
              k.stride(1) == k.dim(2) && v.stride(1) == v.dim(2),
          "write_kv: k {}, v {}, pages {}", k.shape.to_string(), v.shape.to_string(),
          pages.keys.shape.to_string());
  const std::int64_t page_size = pages.keys.dim(1);
  const std::int64_t row = k.dim(1) * k.dim(2);
  for (std::int64_t s = 0; s < sequences_of(batch); ++s) {
    const Sequence sequence = sequence_of(batch, s);
    for (std::int64_t i = 0; i < sequence.tokens; ++i) {
      const std::int64_t position = sequence.context - sequence.tokens + i;
      const std::int64_t page =
          batch.block_tables[static_cast<std::size_t>(s * batch.max_blocks + position / page_size)];
      const std::int64_t to = (page * page_size + position % page_size) * row;
      const std::int64_t token = sequence.first_token + i;
      copy_row(k.as<std::uint16_t>() + token * k.stride(0), row, pages.rounded,
               pages.keys.as<std::uint16_t>() + to);
      copy_row(v.as<std::uint16_t>() + token * v.stride(0), row, pages.rounded,
               pages.values.as<std::uint16_t>() + to);
    }
  }
}

void paged_attention(const Context& context, const AttentionBatch& batch, const TensorView& q,
                     const KvPages& pages, double scale, const TensorView& out) {
  check_device("paged_attention", context);
  check_heads("paged_attention", q);
  check_heads("paged_attention", out);
  check_batch("paged_attention", batch, q.dim(0), pages);
  require(q.shape == out.shape && q.dim(2) == pages.keys.dim(3) && q.dim(1) % pages.keys.dim(2) == 0 &&
              q.dim(2) % 2 == 0,
          "paged_attention: q {}, out {}, pages {}", q.shape.to_string(), out.shape.to_string(),
          pages.keys.shape.to_string());
  Arena::Scope scope(*context.arena);
  std::vector<Sequence> sequences;
  std::int64_t pointers = 0;
  for (std::int64_t s = 0; s < sequences_of(batch); ++s) {
    sequences.push_back(sequence_of(batch, s));
    sequences.back().first_pointer = pointers;
    pointers += sequences.back().context;
  }
  const Call call{kernels::attention_kernels(),
                  q,
                  out,
                  pages,
                  q.dim(1),
                  pages.keys.dim(2),
                  q.dim(2),
                  static_cast<float>(scale),
                  context.arena->allocate<const std::uint16_t*>(pointers),
                  context.arena->allocate<const std::uint16_t*>(pointers)};
  fill_pointers(call, batch, sequences);

  std::vector<const Sequence*> decodes;
  std::vector<Sequence> prefills;
  for (const Sequence& sequence : sequences) {
    if (sequence.tokens == 1) decodes.push_back(&sequence);
    if (sequence.tokens > 1) prefills.push_back(sequence);
  }
  if (!decodes.empty()) {
    Arena::Scope phase(*context.arena);
    attend_decode(context, call, decodes);
  }
  const std::int64_t bytes_per_block = call.kernels.packed_bytes(call.head_dim) * call.kv_heads;
  for (std::size_t begin = 0; begin < prefills.size();) {
    std::int64_t bytes = 0;
    std::size_t end = begin;
    do {
      bytes += packed_blocks(prefills[end++]) * bytes_per_block;
    } while (end < prefills.size() && bytes + packed_blocks(prefills[end]) * bytes_per_block <= kPackedLimit);
    Arena::Scope phase(*context.arena);
    attend_prefill(context, call, std::span(prefills).subspan(begin, end - begin));
    begin = end;
  }
}

std::int64_t paged_attention_workspace(const AttentionBatch& batch, std::int64_t kv_heads,
                                       std::int64_t head_dim) {
  const kernels::AttentionKernels& kernels = kernels::attention_kernels();
  std::int64_t pointers = 0, longest_prefill = 0, packed = 0;
  for (std::int64_t s = 0; s < sequences_of(batch); ++s) {
    const Sequence sequence = sequence_of(batch, s);
    pointers += sequence.context;
    if (sequence.tokens <= 1) continue;
    const std::int64_t bytes = packed_blocks(sequence) * kv_heads * kernels.packed_bytes(head_dim);
    longest_prefill = std::max(longest_prefill, bytes);
    packed += bytes;
  }
  const std::int64_t prefill = std::min(packed, std::max(longest_prefill, kPackedLimit)) +
                               thread_count() * round_up(kernels.attend_scratch_bytes(head_dim), 64);
  const std::int64_t decode = thread_count() * decode_scratch_bytes(kernels, head_dim);
  // Every allocation may be rounded up by one line: two for pointers, one a prefill sequence, one for
  // scratch.
  const std::int64_t rounding = 64 * (4 + sequences_of(batch));
  return 2 * pointers * static_cast<std::int64_t>(sizeof(void*)) + std::max(prefill, decode) + rounding;
}

}  // namespace slidesparse
