#include "convert/pruned_group.h"

#include <cstring>

#include "core/fail.h"
#include "core/numeric.h"
#include "core/parallel.h"
#include "core/text.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kGrain = 4096;  // elements

float load(DType dtype, const void* data, std::int64_t i) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[i];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[i];
  return dtype == DType::kBF16 ? bf16_to_float(bits) : f16_to_float(bits);
}

// One rounding; what is finite stays finite.
void store(DType dtype, float value, void* data, std::int64_t i) {
  if (dtype == DType::kF32) {
    static_cast<float*>(data)[i] = value;
  } else {
    static_cast<std::uint16_t*>(data)[i] = dtype == DType::kBF16 ? float_to_bf16(value) : float_to_f16(value);
  }
}

}  // namespace

std::int64_t pruned_group_bytes(const GroupPrune& prune, std::int64_t rows, std::int64_t k) {
  const std::int64_t matrix = 4 * rows * k;
  std::int64_t bytes = matrix + matrix / 2;  // FP32, and the result
  if (prune.method != PruneMethod::kMagnitude) bytes += matrix;
  if (prune.method == PruneMethod::kSparseGpt) bytes += 4 * k * k + 4 * rows * 128;
  if (prune.split) bytes += 4 * k * std::min(rows, prune.search.rows) + 8 * k * k;
  return bytes;
}

PrunedGroup prune_source_group(const ModelDirectory& source, std::span<const LinearTask> members,
                               const GroupPrune& prune, std::span<float> second_moments) {
  const std::int64_t k = members.front().k;
  std::int64_t rows = 0;
  for (const LinearTask& task : members) rows += task.n;
  std::vector<float> w(static_cast<std::size_t>(rows * k));
  std::int64_t first = 0;
  for (const LinearTask& task : members) {
    const TensorView weight = source.tensor(task.weight, {task.n, k});
    float* out = w.data() + first * k;
    parallel_for(task.n * k, kGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) out[i] = load(weight.dtype, weight.data, i);
    });
    first += task.n;
  }
  PrunedGroup pruned;
  pruned.result = prune_group(prune, w.data(), rows, k, second_moments, members.front().group);
  first = 0;
  for (const LinearTask& task : members) {
    const DType dtype = source.tensor(task.weight).dtype;
    PrunedGroup::Member& member = pruned.members.emplace_back();
    member.rows = Buffer(static_cast<std::size_t>(task.n * k) * dtype_size(dtype));
    if (dtype != DType::kBF16) member.bf16 = Buffer(static_cast<std::size_t>(2 * task.n * k));
    const float* from = w.data() + first * k;
    parallel_for(task.n * k, kGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        store(dtype, from[i], member.rows.data(), i);
        if (dtype != DType::kBF16) store(DType::kBF16, from[i], member.bf16.data(), i);
      }
    });
    source.release(task.weight);
    first += task.n;
  }
  return pruned;
}

}  // namespace slidesparse
