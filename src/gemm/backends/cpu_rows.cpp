#include "gemm/backends/cpu_rows.h"

#include <algorithm>
#include <cstring>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/fail.h"
#include "core/parallel.h"
#include "kernels/cpu/gemm_finish.h"
#include "slidesparse/format/split.h"

namespace slidesparse {
namespace {

constexpr auto kLine = static_cast<std::int64_t>(Buffer::kAlignment);
// Rows of a panel, which is a chunk of blocks wide: 256 KiB, a quarter of a second-level cache.
constexpr std::int64_t kPanelRows = 128;
// Their sums, 4 bytes a row, lie between the chunks in the second-level cache too.
constexpr std::int64_t kPassTokens = 1024;
// Rows whose sums a streaming thread collects before it finishes them: long loops for the vector units, few
// bytes.
constexpr std::int64_t kStreamRows = 64;
// INT32 or FP32.
constexpr std::int64_t kSumBytes = 4;
// Below this many bytes of X one thread prepares all tokens: waking the others costs more.
constexpr std::int64_t kSerialBytes = std::int64_t{32} << 10;

GemmRows geometry(const GemmDesc& desc) {
  GemmRows rows;
  rows.value_stride = stored_values_per_row(desc) * static_cast<std::int64_t>(dtype_size(desc.w));
  rows.code_stride = stored_code_bytes_per_row(desc);
  if (desc.layout == Layout::kPacked) {
    rows.half_group = desc.pattern.half_group();
    rows.packed_values = desc.pattern.values_per_row(desc.k);
    rows.packed_blocks = ceil_div(desc.pattern.groups(desc.k), block_groups(rows.half_group));
  } else if (desc.layout == Layout::kSplit) {
    const SplitShape shape = split_shape(desc.pattern, desc.k);
    rows.half_group = 2;
    rows.packed_values = shape.sparse / 2;
    rows.packed_blocks = shape.sparse / block_lanes(2);
    rows.dense_lanes = shape.dense;
  } else {
    rows.dense_lanes = desc.k;
  }
  rows.dense_blocks = ceil_div(rows.dense_lanes, kBlockSlots);
  return rows;
}

// One token in blocks: channels in the order of the weights, slots without a lane zero. T is the element type
// of X.
template <typename T>
void cut_token(const GemmRows& rows, const T* x, std::int64_t k, std::span<const std::int32_t> perm, T* out) {
  const std::int64_t packed_lanes = std::min(k, rows.packed_blocks * block_lanes(rows.half_group));
  const auto cut = [&](std::int64_t first, std::int64_t lanes, std::int64_t lanes_a_block, T* to) {
    for (std::int64_t lane = 0; lane < lanes; lane += lanes_a_block, to += kBlockSlots) {
      const std::int64_t here = std::min(lanes_a_block, lanes - lane);
      if (perm.empty()) {
        std::memcpy(to, x + first + lane, static_cast<std::size_t>(here) * sizeof(T));
      } else {
        for (std::int64_t i = 0; i < here; ++i) to[i] = x[perm[static_cast<std::size_t>(first + lane + i)]];
      }
      std::memset(to + here, 0, static_cast<std::size_t>(kBlockSlots - here) * sizeof(T));
    }
  };
  cut(0, packed_lanes, block_lanes(rows.half_group), out);
  cut(packed_lanes, rows.dense_lanes, kBlockSlots, out + rows.packed_blocks * kBlockSlots);
}

std::int32_t sum_of(const std::int8_t* x, std::int64_t count) {
  std::int32_t sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += x[i];
  return sum;
}

// The parts of the workspace.
struct Workspace {
  std::byte* x = nullptr;
  std::int32_t* offsets = nullptr;  // [m], I8 only
  std::byte* tasks = nullptr;
};

class Run {
 public:
  Run(const RowsPlan& plan, const GemmDesc& desc, const CpuWeights& weights, const GemmArgs& args,
      std::byte* workspace, std::int64_t tasks)
      : plan_(plan), desc_(desc), weights_(weights), args_(args), rows_(plan.rows), tasks_(tasks) {
    rows_.values = static_cast<const std::uint8_t*>(weights.source.values);
    rows_.codes = weights.source.codes;
    workspace_.x = workspace;
    workspace_.offsets =
        reinterpret_cast<std::int32_t*>(workspace + token_bytes() * round_up(desc.m, plan.token_group()));
    workspace_.tasks = workspace + plan.x_bytes;
  }

  void operator()() const {
    if (tasks_ == 1 || token_bytes() * desc_.m <= kSerialBytes) {
      prepare_tokens(0, 0, desc_.m);
    } else {
      const std::int64_t groups = ceil_div(desc_.m, plan_.token_group());
      parallel_for(tasks_, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = begin; t < end; ++t) {
          prepare_tokens(t, groups * t / tasks_ * plan_.token_group(),
                         std::min(desc_.m, groups * (t + 1) / tasks_ * plan_.token_group()));
        }
      });
    }
    parallel_for(tasks_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) multiply(t);
    });
  }

 private:
  std::int64_t token_bytes() const { return plan_.x_stride() * plan_.panel_element; }
  std::byte* scratch(std::int64_t task) const { return workspace_.tasks + task * plan_.task_bytes; }
  const std::byte* token(std::int64_t m) const { return workspace_.x + m * token_bytes(); }

  void prepare_tokens(std::int64_t task, std::int64_t begin, std::int64_t end) const {
    const std::int64_t stride = row_stride_x(desc_);
    for (std::int64_t m = begin; m < end; ++m) {
      std::byte* out = workspace_.x + m * token_bytes();
      if (desc_.x == DType::kBF16) {
        cut_token(rows_, static_cast<const std::uint16_t*>(args_.x) + m * stride, desc_.k,
                  weights_.source.perm, reinterpret_cast<std::uint16_t*>(out));
        continue;
      }
      const auto* x = static_cast<const std::uint8_t*>(args_.x) + m * stride;
      const bool integers = desc_.x == DType::kI8;
      auto* bytes = reinterpret_cast<std::uint8_t*>(integers ? out : scratch(task));
      cut_token(rows_, x, desc_.k, weights_.source.perm, bytes);
      if (integers) {
        // Modulo 2^32, as the sums that it is taken from.
        const auto offset = static_cast<std::uint32_t>(plan_.kernels->weight_offset);
        const std::int32_t sum =
            offset == 0 ? 0 : sum_of(reinterpret_cast<const std::int8_t*>(bytes), plan_.blocks * kBlockSlots);
        workspace_.offsets[m] = static_cast<std::int32_t>(offset * static_cast<std::uint32_t>(sum));
      } else {
        plan_.kernels->widen(bytes, plan_.blocks, reinterpret_cast<std::uint16_t*>(out));
      }
    }
    if (plan_.kernels->arrange != nullptr) arrange_tokens(task, begin, end);
  }

  // Whole groups, the last one filled up with zeros: `begin` is the first of a group, `end` too or the last
  // of all.
  void arrange_tokens(std::int64_t task, std::int64_t begin, std::int64_t end) const {
    for (std::int64_t first = begin; first < end; first += kTokenGroup) {
      std::byte* group = workspace_.x + first * token_bytes();
      const std::int64_t here = std::min(kTokenGroup, end - first);
      std::memset(group + here * token_bytes(), 0,
                  static_cast<std::size_t>((kTokenGroup - here) * token_bytes()));
      plan_.kernels->arrange(group, token_bytes(), scratch(task));
    }
  }

  // All rows of one thread, a panel at a time.
  void multiply(std::int64_t task) const {
    const std::int64_t quads = ceil_div(desc_.n, kTileRows);
    const std::int64_t begin = std::min(desc_.n, quads * task / tasks_ * kTileRows);
    const std::int64_t end = std::min(desc_.n, quads * (task + 1) / tasks_ * kTileRows);
    for (std::int64_t row = begin; row < end; row += plan_.panel_rows) {
      const std::int64_t count = std::min(plan_.panel_rows, end - row);
      for (std::int64_t m = 0; m < desc_.m; m += plan_.pass_tokens) {
        const std::int64_t tokens = std::min(plan_.pass_tokens, desc_.m - m);
        if (plan_.stream) {
          stream(row, count, m, tokens, scratch(task));
        } else {
          multiply_panel(row, count, m, tokens, scratch(task));
        }
      }
    }
  }

  void stream(std::int64_t row, std::int64_t count, std::int64_t m, std::int64_t tokens,
              std::byte* sums) const {
    plan_.kernels->stream(rows_, row, count, token(m), plan_.x_stride(), tokens, sums, plan_.panel_rows);
    finish(row, count, m, tokens, sums);
  }

  // Chunk by chunk, so that rows of any length leave room in the cache; a chunk of a few tokens meets all
  // rows of the panel.
  void multiply_panel(std::int64_t row, std::int64_t count, std::int64_t m, std::int64_t tokens,
                      std::byte* panel) const {
    const std::int64_t stride = plan_.panel_stride();
    std::byte* sums = panel + round_up(plan_.panel_rows * stride * plan_.panel_element, kLine);
    const std::int64_t tiles = ceil_div(tokens, kTileTokens);
    for (std::int64_t block = 0; block < plan_.blocks; block += plan_.panel_blocks) {
      const std::int64_t blocks = std::min(plan_.panel_blocks, plan_.blocks - block);
      for (std::int64_t r = 0; r < count; ++r) {
        plan_.kernels->expand(rows_, row + r, block, blocks, panel + r * stride * plan_.panel_element);
      }
      const std::int64_t at = block * kBlockSlots * plan_.panel_element;
      if (plan_.kernels->tile_arranged != nullptr) {
        plan_.kernels->tile_arranged(panel, stride, count, token(m) + at * kTokenGroup, plan_.x_stride(),
                                     tokens, blocks, block == 0, block + blocks == plan_.blocks, sums,
                                     plan_.panel_rows);
        continue;
      }
      for (std::int64_t tile = 0; tile < tiles; ++tile) {
        const std::int64_t first = tokens * tile / tiles;
        plan_.kernels->tile(panel, stride, count, token(m + first) + at, plan_.x_stride(),
                            tokens * (tile + 1) / tiles - first, blocks, block == 0,
                            sums + first * plan_.panel_rows * kSumBytes, plan_.panel_rows);
      }
    }
    finish(row, count, m, tokens, sums);
  }

  void finish(std::int64_t row, std::int64_t count, std::int64_t m, std::int64_t tokens,
              const std::byte* sums) const {
    GemmFinish finish;
    finish.w_scale = weights_.scales.empty() ? nullptr : weights_.scales.data() + row;
    finish.bias = weights_.bias.empty() ? nullptr : weights_.bias.data() + row;
    finish.out_dtype = desc_.out;
    const auto element = static_cast<std::int64_t>(dtype_size(desc_.out));
    for (std::int64_t t = 0; t < tokens; ++t) {
      auto* out = static_cast<std::byte*>(args_.out) + ((m + t) * row_stride_out(desc_) + row) * element;
      if (args_.x_scale != nullptr) finish.x_scale = args_.x_scale[m + t];
      if (desc_.x == DType::kI8) {
        finish.offset = workspace_.offsets[m + t];
        gemm_finish(plan_.kernels->isa, finish,
                    reinterpret_cast<const std::int32_t*>(sums) + t * plan_.panel_rows, count, out);
      } else {
        gemm_finish(plan_.kernels->isa, finish, reinterpret_cast<const float*>(sums) + t * plan_.panel_rows,
                    count, out);
      }
    }
  }

  const RowsPlan& plan_;
  const GemmDesc& desc_;
  const CpuWeights& weights_;
  const GemmArgs& args_;
  GemmRows rows_;
  Workspace workspace_;
  std::int64_t tasks_;
};

}  // namespace

RowsPlan plan_rows(const GemmDesc& desc, const CpuKernel& kernel) {
  RowsPlan plan;
  plan.rows = geometry(desc);
  plan.kernels = kernel.method != CpuMethod::kTiles ? &gemm_kernels(kernel.isa, desc.w)
                 : kernel.isa == Isa::kAvx2         ? &avx2_tile_kernels(desc.w)
                                                    : &amx_gemm_kernels(desc.w);
  plan.stream = kernel.method == CpuMethod::kStream;
  plan.blocks = plan.rows.blocks();
  plan.panel_element = desc.w == DType::kI8 ? 1 : 2;
  plan.panel_blocks = std::min(desc.w == DType::kI8 ? kChunkBlocksInt8 : kChunkBlocksBf16, plan.blocks);
  if (plan.stream) {
    plan.panel_rows = kStreamRows;
    plan.pass_tokens = kStreamTokens;
  } else {
    plan.panel_rows = kPanelRows;
    plan.pass_tokens = kPassTokens;
  }
  const std::int64_t panel_bytes =
      plan.stream ? 0 : plan.panel_rows * plan.panel_stride() * plan.panel_element;
  const std::int64_t sum_bytes =
      kSumBytes * plan.panel_rows *
      std::min(plan.pass_tokens, round_up(std::max<std::int64_t>(desc.m, 1), plan.token_group()));
  plan.x_bytes = round_up(
      round_up(desc.m, plan.token_group()) * plan.x_stride() * plan.panel_element + desc.m * kSumBytes,
      kLine);
  // FP8 tokens pass through the scratch as bytes on their way to BF16, and groups of tokens while they are
  // arranged.
  const std::int64_t group_bytes =
      plan.kernels->arrange != nullptr ? kTokenGroup * plan.x_stride() * plan.panel_element : 0;
  plan.task_bytes = round_up(
      std::max({round_up(panel_bytes, kLine) + round_up(sum_bytes, kLine), plan.x_stride(), group_bytes}),
      kLine);
  return plan;
}

void run_rows(const RowsPlan& plan, const GemmDesc& desc, const CpuWeights& weights, const GemmArgs& args,
              std::byte* workspace, std::int64_t workspace_bytes) {
  const std::int64_t tasks = std::min<std::int64_t>(
      std::min<std::int64_t>(thread_count(), (workspace_bytes - plan.x_bytes) / plan.task_bytes),
      ceil_div(desc.n, kTileRows));
  require(tasks >= 1, "{}: workspace of {} bytes, {} needed", desc.to_string(), workspace_bytes,
          plan.workspace_bytes(1));
  Run(plan, desc, weights, args, workspace, tasks)();
}

}  // namespace slidesparse
