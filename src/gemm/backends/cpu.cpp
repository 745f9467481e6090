#include "gemm/backends/cpu.h"

#include "core/buffer.h"
#include "core/fail.h"
#include "core/parallel.h"
#include "gemm/backends/cpu_onednn.h"
#include "gemm/backends/cpu_rows.h"

namespace slidesparse {

std::vector<KernelDesc> CpuBackend::kernels() const {
  std::vector<KernelDesc> list;
  for (const CpuKernel& kernel : cpu_kernels(active_isa()))
    list.push_back(describe(kernel, static_cast<int>(list.size())));
  return list;
}

Feasibility CpuBackend::feasible(const GemmDesc& desc, const KernelDesc& kernel) const {
  if (Feasibility general = check_cpu_problem(desc); !general.ok) return general;
  const CpuKernel& entry = cpu_kernel(kernel);
  if (entry.isa > detected_isa()) {
    return Feasibility::no(
        fmt::format("needs {}, this processor has {}", isa_name(entry.isa), isa_name(detected_isa())));
  }
  if (entry.dtype != desc.w) return Feasibility::no(fmt::format("for {} weights", dtype_name(entry.dtype)));
  if (entry.layout != desc.layout)
    return Feasibility::no(fmt::format("for {} weights", layout_name(entry.layout)));
  if (entry.layout == Layout::kPacked && entry.pattern != desc.pattern) {
    return Feasibility::no(fmt::format("for {} weights", entry.pattern.to_string()));
  }
  if (entry.method == CpuMethod::kStream && desc.m > largest_stream_m()) {
    return Feasibility::no(fmt::format("for M up to {}", largest_stream_m()));
  }
  if (entry.method == CpuMethod::kTiles && entry.isa == Isa::kAvx512 && !has_amx())
    return Feasibility::no("needs AMX");
  if (entry.method == CpuMethod::kTiles && entry.isa == Isa::kAvx2 && desc.m < smallest_tile_m())
    return Feasibility::no(fmt::format("for M of {} and more", smallest_tile_m()));
  if (entry.method == CpuMethod::kOneDnn) return onednn_feasible(desc);
  return {};
}

Footprint CpuBackend::footprint(const GemmDesc& desc, const KernelDesc& kernel) const {
  const CpuKernel& entry = cpu_kernel(kernel);
  Footprint footprint;
  footprint.weight_bytes = vector_bytes(desc);
  footprint.m_padded = desc.m;
  if (entry.method == CpuMethod::kOneDnn) {
    footprint.weight_bytes += onednn_weight_bytes(desc);
    footprint.workspace_bytes = onednn_workspace_bytes(desc);
    footprint.k_padded = desc.k;
    footprint.weight_bytes_read = footprint.weight_bytes;
  } else {
    const RowsPlan rows = plan_rows(desc, entry);
    footprint.workspace_bytes = rows.workspace_bytes(thread_count());
    footprint.k_padded = rows.x_stride();
    footprint.weight_bytes_read = stored_bytes(desc);
  }
  return footprint;
}

std::string CpuBackend::weight_form(const GemmDesc& desc, const KernelDesc& kernel) const {
  return cpu_kernel(kernel).method == CpuMethod::kOneDnn ? fmt::format("onednn {}", dtype_name(desc.w))
                                                         : "stored";
}

std::unique_ptr<PreparedWeights> CpuBackend::prepare_weights(const WeightSource& source, const GemmDesc& desc,
                                                             const KernelDesc& kernel) const {
  if (cpu_kernel(kernel).method == CpuMethod::kOneDnn) return onednn_prepare(source, desc);
  return std::make_unique<CpuWeights>(source, desc);
}

GemmPlan CpuBackend::plan(const GemmDesc& desc, const KernelDesc& kernel) const {
  const Feasibility answer = feasible(desc, kernel);
  require(answer.ok, "{} cannot run {}: {}", kernel.name, desc.to_string(), answer.reason);
  return {desc, kernel, footprint(desc, kernel).workspace_bytes, nullptr};
}

void CpuBackend::run(const GemmPlan& plan, const PreparedWeights& weights, const GemmArgs& args,
                     const Context& context) const {
  const GemmDesc& desc = plan.desc;
  if (desc.m == 0) return;
  require(context.arena != nullptr, "{}: no arena", desc.to_string());
  require(args.x != nullptr && args.out != nullptr && (args.x_scale != nullptr || desc.x == DType::kBF16),
          "{}: x, out or scales are missing", desc.to_string());
  const Arena::Scope scope(*context.arena);
  auto* workspace =
      static_cast<std::byte*>(context.arena->allocate(static_cast<std::size_t>(plan.workspace_bytes)));
  const CpuKernel& entry = cpu_kernel(plan.kernel);
  if (entry.method == CpuMethod::kOneDnn) {
    onednn_run(desc, weights, args, workspace);
  } else {
    run_rows(plan_rows(desc, entry), desc, dynamic_cast<const CpuWeights&>(weights), args, workspace,
             plan.workspace_bytes);
  }
}

}  // namespace slidesparse
