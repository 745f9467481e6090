#include "gemm/backends/cpu_onednn.h"

#include <oneapi/dnnl/dnnl.hpp>

#include <map>
#include <mutex>
#include <tuple>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/fail.h"
#include "core/parallel.h"
#include "kernels/cpu/gemm_finish.h"

namespace slidesparse {
namespace {

using dnnl::matmul;
using dnnl::memory;

// M for which the layout of the weights is asked; every other M takes them as they are then.
constexpr std::int64_t kLayoutM = 512;
constexpr auto kLine = static_cast<std::int64_t>(Buffer::kAlignment);

const dnnl::engine& engine() {
  static const dnnl::engine kEngine(dnnl::engine::kind::cpu, 0);
  return kEngine;
}

memory::data_type data_type(DType dtype) {
  switch (dtype) {
    case DType::kI8:
      return memory::data_type::s8;
    case DType::kBF16:
      return memory::data_type::bf16;
    case DType::kI32:
      return memory::data_type::s32;
    default:
      return memory::data_type::f32;
  }
}

// What oneDNN writes: integers go on to our own scaling.
DType result_type(const GemmDesc& desc) {
  return desc.w == DType::kI8 ? DType::kI32 : desc.out;
}

struct Primitive {
  matmul::primitive_desc description;
  matmul primitive;
};

Primitive make(const GemmDesc& desc, std::int64_t m, const memory::desc& weights) {
  const bool integers = desc.w == DType::kI8;
  const memory::desc src({m, desc.k}, data_type(desc.x), memory::dims{row_stride_x(desc), 1});
  const memory::desc dst({m, desc.n}, data_type(result_type(desc)),
                         memory::dims{integers ? desc.n : row_stride_out(desc), 1});
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const memory::desc bias({1, desc.n}, memory::data_type::f32, memory::format_tag::ab);
  const matmul::desc operation =
      desc.bias && !integers ? matmul::desc(src, weights, bias, dst) : matmul::desc(src, weights, dst);
  matmul::primitive_desc description(operation, attributes, engine());
  return {description, matmul(description)};
}

using Key =
    std::tuple<DType, DType, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, bool, int>;

// Primitives by shape and number of threads, which oneDNN fixes when it makes them.
const Primitive& cached(const GemmDesc& desc) {
  static std::mutex mutex;
  static std::map<Key, std::unique_ptr<Primitive>> cache;
  const std::lock_guard lock(mutex);
  auto& slot = cache[Key{desc.w, desc.out, desc.m, desc.n, desc.k, row_stride_x(desc), row_stride_out(desc),
                         desc.bias, thread_count()}];
  if (slot == nullptr) {
    const memory::desc any({desc.k, desc.n}, data_type(desc.w), memory::format_tag::any);
    const memory::desc layout = make(desc, kLayoutM, any).description.weights_desc();
    slot = std::make_unique<Primitive>(make(desc, desc.m, layout));
  }
  return *slot;
}

struct OneDnnWeights : CpuWeights {
  OneDnnWeights(const WeightSource& from, const GemmDesc& desc)
      : CpuWeights(from, desc), layout(cached(desc).description.weights_desc()), buffer(layout.get_size()) {
    const memory::desc stored({desc.k, desc.n}, data_type(desc.w), memory::dims{1, desc.k});
    memory source_memory(stored, engine(), const_cast<void*>(from.values));
    memory blocked(layout, engine(), buffer.data());
    dnnl::stream stream(engine());
    dnnl::reorder(source_memory, blocked).execute(stream, source_memory, blocked);
    stream.wait();
  }
  std::int64_t allocated_bytes() const override {
    return CpuWeights::allocated_bytes() + static_cast<std::int64_t>(buffer.size());
  }

  memory::desc layout;
  Buffer buffer;
};

std::int64_t scratchpad_bytes(const GemmDesc& desc) {
  return round_up(static_cast<std::int64_t>(cached(desc).description.scratchpad_desc().get_size()), kLine);
}

void finish_rows(const GemmDesc& desc, const CpuWeights& weights, const GemmArgs& args,
                 const std::int32_t* sums) {
  parallel_for(desc.m, 1, [&](std::int64_t begin, std::int64_t end) {
    GemmFinish finish{weights.scales.data(), weights.bias.empty() ? nullptr : weights.bias.data(), 1.0f, 0,
                      desc.out};
    const auto row_bytes = row_stride_out(desc) * static_cast<std::int64_t>(dtype_size(desc.out));
    for (std::int64_t m = begin; m < end; ++m) {
      finish.x_scale = args.x_scale[m];
      gemm_finish(Isa::kAvx512, finish, sums + m * desc.n, desc.n,
                  static_cast<std::byte*>(args.out) + m * row_bytes);
    }
  });
}

// The same problem with at least one token: oneDNN makes no primitive for none.
GemmDesc with_tokens(GemmDesc desc) {
  if (desc.m == 0) desc.m = 1;
  return desc;
}

}  // namespace

Feasibility onednn_feasible(const GemmDesc& desc) {
  const auto have = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  const auto need = static_cast<unsigned>(desc.w == DType::kI8 ? dnnl::cpu_isa::avx512_core_vnni
                                                               : dnnl::cpu_isa::avx512_core_bf16);
  if ((have & need) != need) {
    return Feasibility::no(desc.w == DType::kI8 ? "oneDNN's INT8 is exact with AVX-512 VNNI only"
                                                : "oneDNN's BF16 needs AVX-512 BF16");
  }
  return {};
}

std::int64_t onednn_weight_bytes(const GemmDesc& desc) {
  return static_cast<std::int64_t>(cached(with_tokens(desc)).description.weights_desc().get_size());
}

std::int64_t onednn_workspace_bytes(const GemmDesc& desc) {
  return scratchpad_bytes(with_tokens(desc)) + (desc.w == DType::kI8 ? desc.m * desc.n * 4 : 0);
}

std::unique_ptr<PreparedWeights> onednn_prepare(const WeightSource& source, const GemmDesc& desc) {
  return std::make_unique<OneDnnWeights>(source, with_tokens(desc));
}

void onednn_run(const GemmDesc& desc, const PreparedWeights& weights, const GemmArgs& args,
                std::byte* workspace) {
  const auto& w = dynamic_cast<const OneDnnWeights&>(weights);
  const Primitive& primitive = cached(desc);
  const matmul::primitive_desc& description = primitive.description;
  require(w.layout == description.weights_desc(), "{}: oneDNN wants another layout of the weights",
          desc.to_string());
  const bool integers = desc.w == DType::kI8;
  std::byte* sums = workspace + scratchpad_bytes(desc);
  std::unordered_map<int, memory> arguments{
      {DNNL_ARG_SRC, memory(description.src_desc(), engine(), const_cast<void*>(args.x))},
      {DNNL_ARG_WEIGHTS, memory(w.layout, engine(), const_cast<std::byte*>(w.buffer.data()))},
      {DNNL_ARG_DST,
       memory(description.dst_desc(), engine(), integers ? static_cast<void*>(sums) : args.out)},
      {DNNL_ARG_SCRATCHPAD, memory(description.scratchpad_desc(), engine(), workspace)}};
  if (desc.bias && !integers) {
    arguments.emplace(DNNL_ARG_BIAS,
                      memory(description.bias_desc(), engine(), const_cast<float*>(w.bias.data())));
  }
  dnnl::stream stream(engine());
  primitive.primitive.execute(stream, arguments);
  stream.wait();
  if (integers) finish_rows(desc, w, args, reinterpret_cast<const std::int32_t*>(sums));
}

std::string onednn_implementation(const GemmDesc& desc) {
  return cached(with_tokens(desc)).description.impl_info_str();
}

}  // namespace slidesparse
