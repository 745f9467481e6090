#include "convert/linear_writer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "convert/work.h"
#include "core/fail.h"
#include "core/interrupt.h"
#include "core/numeric.h"
#include "core/text.h"
#include "io/digest.h"
#include "quant/weights.h"
#include "slidesparse/format/pack.h"
#include "slidesparse/format/split.h"

namespace slidesparse {
namespace {

// A block stays in a core's cache from pruning to packing; a wave is what the cores share while one of them
// hashes it.
constexpr std::int64_t kBlockBytes = 512 << 10;
constexpr std::int64_t kWaveBytes = 32 << 20;

template <typename T = std::byte>
T* at_least(Buffer& buffer, std::int64_t bytes) {
  if (buffer.size() < static_cast<std::size_t>(bytes)) buffer = Buffer(static_cast<std::size_t>(bytes));
  return buffer.as<T>();
}

std::span<const std::byte> span_of(const Buffer& buffer, std::int64_t bytes) {
  return {buffer.data(), static_cast<std::size_t>(bytes)};
}

float load_scale(const TensorView& scale, std::int64_t row) {
  if (scale.dtype == DType::kF32) return scale.as<const float>()[row];
  const std::uint16_t bits = scale.as<const std::uint16_t>()[row];
  return scale.dtype == DType::kBF16 ? bf16_to_float(bits) : f16_to_float(bits);
}

// F16 or F32 rows to BF16, one rounding. What is finite stays finite, or is refused.
void to_bf16(DType from, const void* rows, std::int64_t count, std::int64_t k, std::uint16_t* out,
             std::int64_t first_row, const std::string& what) {
  for (std::int64_t i = 0; i < count * k; ++i) {
    const float value = from == DType::kF32 ? static_cast<const float*>(rows)[i]
                                            : f16_to_float(static_cast<const std::uint16_t*>(rows)[i]);
    out[i] = float_to_bf16(value);
    if ((out[i] & 0x7fffu) >= 0x7f80u) {
      fail_input("{}: the weight at row {}, column {} is {}, beyond BF16; use --dtype int8 or fp8",
                 printable(what), first_row + i / k, i % k, value);
    }
  }
}

}  // namespace

TensorStreamer::TensorStreamer(const ModelDirectory& source, DirectoryJob& job, Advance advance)
    : source_(source),
      job_(job),
      advance_(std::move(advance)),
      scratch_(static_cast<std::size_t>(thread_count())) {}

void TensorStreamer::for_blocks(
    const std::string& name, std::int64_t rows, std::int64_t row_bytes, std::string* digest,
    const std::function<void(std::int64_t, std::int64_t, std::int64_t, Scratch&)>& body) {
  const std::byte* data = source_.tensor(name).as<const std::byte>();
  const std::int64_t block_rows = std::max<std::int64_t>(1, kBlockBytes / row_bytes);
  const std::int64_t wave_blocks = std::max<std::int64_t>(1, kWaveBytes / (block_rows * row_bytes));
  const std::int64_t blocks = (rows + block_rows - 1) / block_rows;
  Sha256 sha;
  for (std::int64_t first = 0; first < blocks; first += wave_blocks) {
    const std::int64_t last = std::min(blocks, first + wave_blocks);
    const std::int64_t begin_row = first * block_rows;
    const std::int64_t end_row = std::min(rows, last * block_rows);
    const std::int64_t bytes = (end_row - begin_row) * row_bytes;
    const std::int64_t hash_tasks = digest != nullptr ? 1 : 0;
    run_tasks(last - first + hash_tasks, [&](std::int64_t task, int worker) {
      if (task < hash_tasks) {
        sha.update({data + begin_row * row_bytes, static_cast<std::size_t>(bytes)});
        return;
      }
      check_interrupt("what is finished is kept: run the same command again to go on");
      const std::int64_t block = first + task - hash_tasks;
      const std::int64_t row = block * block_rows;
      body(block, row, std::min(block_rows, rows - row), scratch_[static_cast<std::size_t>(worker)]);
    });
    advance_(bytes);
  }
  source_.release(name);
  if (digest != nullptr) *digest = sha.finish();
}

std::string TensorStreamer::copy(const std::string& name) {
  const TensorView view = source_.tensor(name);
  const std::byte* data = view.as<const std::byte>();
  std::string digest;
  // Rows mean nothing here: blocks of bytes.
  for_blocks(name, view.byte_size(), 1, &digest,
             [&](std::int64_t, std::int64_t begin, std::int64_t count, Scratch&) {
               job_.write(name, begin, {data + begin, static_cast<std::size_t>(count)});
             });
  return digest;
}

std::string TensorStreamer::hash(const std::string& name) {
  std::string digest;
  for_blocks(name, source_.tensor(name).byte_size(), 1, &digest,
             [](std::int64_t, std::int64_t, std::int64_t, Scratch&) {});
  return digest;
}

LayerReport TensorStreamer::convert(const LinearTask& task, PruneMethod method, const PrunedRows* pruned,
                                    TensorDigests& digests) {
  const std::int64_t row_bytes =
      task.k * static_cast<std::int64_t>(dtype_size(source_.tensor(task.weight).dtype));
  std::vector<LayerReport> blocks(static_cast<std::size_t>(task.n));
  std::string digest;
  for_blocks(task.weight, task.n, row_bytes, task.hash ? &digest : nullptr,
             [&](std::int64_t block, std::int64_t row, std::int64_t count, Scratch& scratch) {
               convert_block(task, method, pruned, row, count, scratch,
                             blocks[static_cast<std::size_t>(block)]);
             });
  if (task.hash) digests[task.weight] = digest;
  if (task.scale) digests[*task.scale] = hash(*task.scale);

  LayerReport report;
  report.name = task.name;
  report.group = task.group;
  report.pattern = task.pattern;
  report.layout = task.layout;
  report.reason = task.reason;
  report.rows = task.n;
  report.k = task.k;
  // In the order of the rows, whoever did them: sums of floats depend on it.
  for (const LayerReport& block : blocks) {
    report.prune += block.prune;
    report.eps_rows += block.eps_rows;
    report.negative_zeros_dropped += block.negative_zeros_dropped;
  }
  return report;
}

void TensorStreamer::convert_block(const LinearTask& task, PruneMethod method, const PrunedRows* pruned,
                                   std::int64_t row, std::int64_t count, Scratch& scratch,
                                   LayerReport& report) {
  const TensorView weight = source_.tensor(task.weight);
  const auto size = static_cast<std::int64_t>(dtype_size(weight.dtype));
  const std::int64_t bytes = count * task.k * size;
  std::byte* rows = at_least(scratch.rows, bytes);
  const auto load = [&](const void* from) {
    std::memcpy(rows, static_cast<const std::byte*>(from) + row * task.k * size,
                static_cast<std::size_t>(bytes));
  };
  const auto facts = [&](Pattern pattern, PruneMethod how) {
    return prune_rows(pattern, how, weight.dtype, rows, count, task.k, task.k, row, task.weight);
  };
  load(weight.data);
  if (task.scale) {
    take_codes(task, method, row, count, scratch, report);
  } else if (pruned != nullptr) {
    const PruneReport before = facts(Pattern(), PruneMethod::kNone);
    load(pruned->rows);
    const PruneReport after = facts(Pattern(), PruneMethod::kNone);
    report.prune = {before.elements, after.zeros, after.zeros - before.zeros, before.energy, after.energy};
    quantise_block(task, weight.dtype, row, count, scratch, report);
  } else {
    report.prune = facts(task.pattern, method);
    quantise_block(task, weight.dtype, row, count, scratch, report);
  }

  const bool unchanged = task.scale || (task.target == DType::kBF16 && weight.dtype == DType::kBF16);
  pack_block(task, pruned != nullptr ? pruned->perm : std::span<const std::int32_t>(),
             unchanged ? scratch.rows.data() : scratch.codes8.data(), row, count, scratch, report);
}

void TensorStreamer::pack_block(const LinearTask& task, std::span<const std::int32_t> perm, const void* rows,
                                std::int64_t row, std::int64_t count, Scratch& scratch, LayerReport& report) {
  const std::int64_t value_bytes = task.values_per_row() * static_cast<std::int64_t>(dtype_size(task.target));
  const std::int64_t code_bytes = task.code_bytes_per_row();
  at_least(scratch.values, count * value_bytes);
  auto* codes = at_least<std::uint8_t>(scratch.codes, std::max<std::int64_t>(1, count * code_bytes));
  const PackReport packed =
      task.layout == PackedLayout::kSplit
          ? split_pack_rows(split_shape(task.pattern, task.k), perm, task.target, rows, count, task.k,
                            scratch.values.data(), codes, row, task.weight)
          : pack_rows(task.pattern, task.target, rows, count, task.k, task.k, scratch.values.data(), codes,
                      row, task.weight);
  report.negative_zeros_dropped = packed.negative_zeros_dropped;
  job_.write(task.name + ".values", row * value_bytes, span_of(scratch.values, count * value_bytes));
  if (code_bytes > 0) {
    job_.write(task.name + ".codes", row * code_bytes, span_of(scratch.codes, count * code_bytes));
  }
}

// Fills codes8 from the pruned rows, and writes the scales.
void TensorStreamer::quantise_block(const LinearTask& task, DType dtype, std::int64_t row, std::int64_t count,
                                    Scratch& scratch, LayerReport& report) {
  const auto size = static_cast<std::int64_t>(dtype_size(dtype));
  if (task.target == DType::kBF16) {
    if (dtype == DType::kBF16) return;
    auto* out = at_least<std::uint16_t>(scratch.codes8, count * task.k * 2);
    to_bf16(dtype, scratch.rows.data(), count, task.k, out, row, task.weight);
    return;
  }
  at_least(scratch.codes8, count * task.k);
  at_least(scratch.scales, count * size);
  report.eps_rows = quantise_weight_rows(dtype, scratch.rows.data(), count, task.k, task.k, task.target,
                                         scratch.codes8.data(), scratch.scales.data(), row, task.weight)
                        .zero_rows;
  job_.write(task.name + ".scale", row * size, span_of(scratch.scales, count * size));
}

// A source that is quantised already: its codes are pruned as they are, its scales kept (one for all rows is
// repeated).
void TensorStreamer::take_codes(const LinearTask& task, PruneMethod method, std::int64_t row,
                                std::int64_t count, Scratch& scratch, LayerReport& report) {
  const TensorView scale = source_.tensor(*task.scale);
  const auto size = static_cast<std::int64_t>(dtype_size(scale.dtype));
  const bool channel = scale.shape.count() == task.n && scale.rank() > 0 && scale.dim(0) == task.n;
  std::byte* scales = at_least(scratch.scales, count * size);
  for (std::int64_t r = 0; r < count; ++r) {
    const std::int64_t from = channel ? row + r : 0;
    std::memcpy(scales + r * size, scale.as<const std::byte>() + from * size, static_cast<std::size_t>(size));
    std::byte* codes = scratch.rows.data() + r * task.k;
    // One row at a time, because a row's energy counts times its scale squared.
    PruneReport pruned =
        prune_rows(task.pattern, method, task.target, codes, 1, task.k, task.k, row + r, task.weight);
    const double squared = std::pow(static_cast<double>(load_scale(scale, from)), 2);
    pruned.energy *= squared;
    pruned.energy_kept *= squared;
    report.prune += pruned;
  }
  validate_weight_scales(scale.dtype, scales, task.target, scratch.rows.data(), count, task.k, *task.scale);
  job_.write(task.name + ".scale", row * size, span_of(scratch.scales, count * size));
}

}  // namespace slidesparse
