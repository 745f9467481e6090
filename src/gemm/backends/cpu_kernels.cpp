#include "gemm/backends/cpu_kernels.h"

#include "core/fail.h"
#include "kernels/cpu/gemm_kernels.h"

namespace slidesparse {
namespace {

std::string_view method_name(CpuMethod method, Isa isa) {
  switch (method) {
    case CpuMethod::kStream:
      return "stream";
    case CpuMethod::kPanel:
      return "panel";
    case CpuMethod::kTiles:
      return isa == Isa::kAvx2 ? "tiles" : "amx";
    case CpuMethod::kOneDnn:
      return "onednn";
  }
  return "?";
}

std::vector<CpuKernel> make_list(Isa isa) {
  std::vector<CpuKernel> list;
  for (const DType dtype : {DType::kI8, DType::kF8E4M3, DType::kBF16}) {
    for (const CpuMethod method : {CpuMethod::kStream, CpuMethod::kPanel, CpuMethod::kTiles}) {
      if (method == CpuMethod::kStream && gemm_kernels(isa, dtype).stream == nullptr) continue;
      if (method == CpuMethod::kTiles && isa == Isa::kPortable) continue;
      list.push_back({method, dtype, Layout::kDense, Pattern(), isa});
      for (int n = 2; n <= 8; ++n)
        list.push_back({method, dtype, Layout::kPacked, Pattern::of_half_group(n), isa});
      list.push_back({method, dtype, Layout::kSplit, Pattern(), isa});
    }
  }
  // Without VNNI oneDNN's INT8 saturates in 16 bits, and without AVX-512 its BF16 is a plain loop.
  if (isa == Isa::kAvx512) {
    list.push_back({CpuMethod::kOneDnn, DType::kI8, Layout::kDense, Pattern(), isa});
    list.push_back({CpuMethod::kOneDnn, DType::kBF16, Layout::kDense, Pattern(), isa});
  }
  return list;
}

}  // namespace

const std::vector<CpuKernel>& cpu_kernels(Isa isa) {
  static const std::vector<CpuKernel> kPortable = make_list(Isa::kPortable);
  static const std::vector<CpuKernel> kAvx2 = make_list(Isa::kAvx2);
  static const std::vector<CpuKernel> kAvx512 = make_list(Isa::kAvx512);
  return isa == Isa::kAvx512 ? kAvx512 : isa == Isa::kAvx2 ? kAvx2 : kPortable;
}

KernelDesc describe(const CpuKernel& kernel, int id) {
  const std::string form = kernel.pattern.is_dense()
                               ? std::string(layout_name(kernel.layout))
                               : fmt::format("{} {}", layout_name(kernel.layout), kernel.pattern.to_string());
  std::string name = fmt::format("cpu/{} {} {} {}", isa_name(kernel.isa), form, dtype_name(kernel.dtype),
                                 method_name(kernel.method, kernel.isa));
  KernelDesc description;
  description.backend = "cpu";
  description.name = std::move(name);
  description.isa = kernel.isa;
  description.sparse = kernel.layout != Layout::kDense;
  description.id = id;
  return description;
}

const CpuKernel& cpu_kernel(const KernelDesc& kernel) {
  const std::vector<CpuKernel>& list = cpu_kernels(kernel.isa);
  require(kernel.backend == "cpu" && kernel.id >= 0 && kernel.id < static_cast<int>(list.size()),
          "kernel \"{}\" (id {}) is not one of the cpu backend's {}", kernel.name, kernel.id, list.size());
  return list[static_cast<std::size_t>(kernel.id)];
}

std::int64_t largest_stream_m() {
  return kStreamTokens;
}

std::int64_t smallest_tile_m() {
  return kTokenGroup / 2;
}

}  // namespace slidesparse
