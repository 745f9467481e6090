#include "gemm/backends/reference.h"

#include <algorithm>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/fail.h"
#include "core/numeric.h"
#include "core/parallel.h"
#include "gemm/backends/common.h"
#include "slidesparse/format/codes.h"
#include "slidesparse/format/split.h"

namespace slidesparse {
namespace {

double element(const void* data, DType dtype, std::int64_t i) {
  switch (dtype) {
    case DType::kI8:
      return static_cast<const std::int8_t*>(data)[i];
    case DType::kF8E4M3:
      return e4m3_to_float(static_cast<const std::uint8_t*>(data)[i]);
    default:
      return bf16_to_float(static_cast<const std::uint16_t*>(data)[i]);
  }
}

// Calls put(lane, value) for the kept lanes of one packed row of k channels; returns how many values it took.
template <typename Put>
std::int64_t for_each_kept(Pattern pattern, std::int64_t k, const std::uint8_t* codes, const Put& put) {
  std::int64_t value = 0;
  for (std::int64_t g = 0; g < pattern.groups(k); ++g) {
    const DroppedPair dropped = decode_pair(read_code(codes, pattern.code_bits(), g));
    for (int lane = 0; lane < pattern.group(); ++lane) {
      if (lane == dropped.a || lane == dropped.b) continue;
      const std::int64_t channel = g * pattern.group() + lane;
      if (channel < k) put(channel, value);
      ++value;
    }
  }
  return value;
}

// Row `row` of the weights in channel order, [k].
void read_row(const WeightSource& source, const GemmDesc& desc, std::int64_t row, double* out) {
  const std::int64_t base = row * stored_values_per_row(desc);
  const auto value_at = [&](std::int64_t i) { return element(source.values, source.dtype, base + i); };
  if (source.layout == Layout::kDense) {
    for (std::int64_t i = 0; i < source.k; ++i) out[i] = value_at(i);
    return;
  }
  std::fill(out, out + source.k, 0.0);
  const std::uint8_t* codes = source.codes + row * stored_code_bytes_per_row(desc);
  if (source.layout == Layout::kPacked) {
    for_each_kept(source.pattern, source.k, codes,
                  [&](std::int64_t lane, std::int64_t i) { out[lane] = value_at(i); });
    return;
  }
  const SplitShape shape = split_shape(source.pattern, source.k);
  std::int64_t next =
      for_each_kept(Pattern::of_half_group(2), shape.sparse, codes, [&](std::int64_t lane, std::int64_t i) {
        out[source.perm[static_cast<std::size_t>(lane)]] = value_at(i);
      });
  for (std::int64_t i = shape.sparse; i < source.k; ++i)
    out[source.perm[static_cast<std::size_t>(i)]] = value_at(next++);
}

float dot(const GemmDesc& desc, const void* x, std::int64_t x_base, const double* row) {
  if (desc.x == DType::kI8) {
    std::int64_t sum = 0;
    for (std::int64_t i = 0; i < desc.k; ++i) {
      sum += static_cast<std::int64_t>(static_cast<const std::int8_t*>(x)[x_base + i]) *
             static_cast<std::int64_t>(row[i]);
    }
    return static_cast<float>(sum);
  }
  double sum = 0;
  for (std::int64_t i = 0; i < desc.k; ++i) sum += element(x, desc.x, x_base + i) * row[i];
  return static_cast<float>(sum);
}

std::int64_t row_bytes(const GemmDesc& desc) {
  return round_up(desc.k * static_cast<std::int64_t>(sizeof(double)),
                  static_cast<std::int64_t>(Buffer::kAlignment));
}

}  // namespace

std::vector<KernelDesc> ReferenceBackend::kernels() const {
  KernelDesc kernel;
  kernel.backend = "reference";
  kernel.name = "reference plain loops";
  return {kernel};
}

Feasibility ReferenceBackend::feasible(const GemmDesc& desc, const KernelDesc&) const {
  return check_cpu_problem(desc);
}

Footprint ReferenceBackend::footprint(const GemmDesc& desc, const KernelDesc&) const {
  return {vector_bytes(desc), row_bytes(desc) * thread_count(), desc.m, desc.k, 0, stored_bytes(desc)};
}

std::string ReferenceBackend::weight_form(const GemmDesc&, const KernelDesc&) const {
  return "stored";
}

std::unique_ptr<PreparedWeights> ReferenceBackend::prepare_weights(const WeightSource& source,
                                                                   const GemmDesc& desc,
                                                                   const KernelDesc&) const {
  return std::make_unique<CpuWeights>(source, desc);
}

GemmPlan ReferenceBackend::plan(const GemmDesc& desc, const KernelDesc& kernel) const {
  return {desc, kernel, footprint(desc, kernel).workspace_bytes, nullptr};
}

void ReferenceBackend::run(const GemmPlan& plan, const PreparedWeights& weights, const GemmArgs& args,
                           const Context& context) const {
  const GemmDesc& desc = plan.desc;
  if (desc.m == 0) return;
  const auto& w = dynamic_cast<const CpuWeights&>(weights);
  require(context.arena != nullptr, "{}: no arena", desc.to_string());
  const Arena::Scope scope(*context.arena);
  auto* workspace =
      static_cast<std::byte*>(context.arena->allocate(static_cast<std::size_t>(plan.workspace_bytes)));
  const std::int64_t tasks = std::min<std::int64_t>(plan.workspace_bytes / row_bytes(desc), desc.n);
  parallel_for(tasks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      auto* row = reinterpret_cast<double*>(workspace + task * row_bytes(desc));
      for (std::int64_t n = desc.n * task / tasks; n < desc.n * (task + 1) / tasks; ++n) {
        read_row(w.source, desc, n, row);
        const auto channel = static_cast<std::size_t>(n);
        for (std::int64_t m = 0; m < desc.m; ++m) {
          float value = dot(desc, args.x, m * row_stride_x(desc), row);
          if (!w.scales.empty()) value = value * args.x_scale[m] * w.scales[channel];
          if (!w.bias.empty()) value = value + w.bias[channel];
          const std::int64_t at = m * row_stride_out(desc) + n;
          if (desc.out == DType::kF32) {
            static_cast<float*>(args.out)[at] = value;
          } else {
            static_cast<std::uint16_t*>(args.out)[at] = float_to_bf16(value);
          }
        }
      }
    }
  });
}

}  // namespace slidesparse
