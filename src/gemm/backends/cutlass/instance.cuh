#pragma once

#include <cuda_runtime_api.h>

#include "cute/tensor.hpp"
#include "cutlass/cutlass.h"
#include "cutlass/device_kernel.h"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "gemm/backends/cutlass/variant.h"

// One kernel: warp-specialised TMA and wgmma for sm_90a from CUTLASS's collective builders. Heavy to compile:
// every instance has a file of its own.
namespace slidesparse::cutlass_gemm {

// Products and sums rounded one by one: the compiler may not contract them, so the result is bit for bit
// (float(acc) * x_scale) * w_scale + bias.
template <class T>
struct RoundedMultiply;
template <>
struct RoundedMultiply<float> {
  __device__ float operator()(float a, float b) const { return __fmul_rn(a, b); }
};
template <int Count>
struct RoundedMultiply<cutlass::Array<float, Count>> {
  using Values = cutlass::Array<float, Count>;
  __device__ Values operator()(const Values& a, const Values& b) const {
    Values result;
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < Count; ++i) result[i] = __fmul_rn(a[i], b[i]);
    return result;
  }
};

template <class T>
struct RoundedAdd;
template <>
struct RoundedAdd<float> {
  __device__ float operator()(float a, float b) const { return __fadd_rn(a, b); }
};
template <int Count>
struct RoundedAdd<cutlass::Array<float, Count>> {
  using Values = cutlass::Array<float, Count>;
  __device__ Values operator()(const Values& a, const Values& b) const {
    Values result;
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < Count; ++i) result[i] = __fadd_rn(a[i], b[i]);
    return result;
  }
};

template <DType Type>
struct Elements;
template <>
struct Elements<DType::kF8E4M3> {
  using Input = cutlass::float_e4m3_t;
  using Sum = float;
  // Sums stay in the tensor cores' accumulators: "fast accumulation".
  using Pingpong = cutlass::gemm::KernelTmaWarpSpecializedPingpongFP8FastAccum;
  using Cooperative = cutlass::gemm::KernelTmaWarpSpecializedCooperativeFP8FastAccum;
};
template <>
struct Elements<DType::kI8> {
  using Input = std::int8_t;
  using Sum = std::int32_t;
  using Pingpong = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
  using Cooperative = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
};

// Channels x Tokens x K is the tile of one block; Cluster blocks along the channels share their tokens' tile.
template <DType Type, int Channels, int Tokens, int K, int Cluster, Schedule How>
struct Instance {
  using Input = typename Elements<Type>::Input;
  using Sum = typename Elements<Type>::Sum;
  using Output = cutlass::bfloat16_t;
  using TileShape = cute::Shape<cute::Int<Channels>, cute::Int<Tokens>, cute::Int<K>>;
  using ClusterShape = cute::Shape<cute::Int<Cluster>, cute::_1, cute::_1>;
  static constexpr bool kPingpong = How == Schedule::kPingpong;
  static constexpr bool kStreamK = How == Schedule::kStreamK;
  using MainloopSchedule =
      cute::conditional_t<kPingpong, typename Elements<Type>::Pingpong, typename Elements<Type>::Cooperative>;
  using EpilogueSchedule = cute::conditional_t<kPingpong, cutlass::epilogue::TmaWarpSpecialized,
                                               cutlass::epilogue::TmaWarpSpecializedCooperative>;

  static constexpr auto kRounding = cutlass::FloatRoundStyle::round_to_nearest;
  template <template <class> class Operation, class Result>
  using Compute = cutlass::epilogue::fusion::Sm90Compute<Operation, Result, float, kRounding>;
  using OfTokens = cutlass::epilogue::fusion::Sm90RowBroadcast<0, TileShape, float, float,
                                                               cute::Stride<cute::_0, cute::_1, cute::_0>>;
  using OfChannels =
      cutlass::epilogue::fusion::Sm90ColBroadcast<0, TileShape, float, float,
                                                  cute::Stride<cute::_1, cute::_0, cute::_0>, 1>;
  using TokenScaled = cutlass::epilogue::fusion::Sm90EVT<Compute<RoundedMultiply, float>,
                                                         cutlass::epilogue::fusion::Sm90AccFetch, OfTokens>;
  using Scaled = cutlass::epilogue::fusion::Sm90EVT<Compute<RoundedMultiply, float>, TokenScaled, OfChannels>;
  using Fusion = cutlass::epilogue::fusion::Sm90EVT<Compute<RoundedAdd, Output>, Scaled, OfChannels>;

  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, TileShape, ClusterShape,
      cutlass::epilogue::collective::EpilogueTileAuto, Sum, float, void, cutlass::layout::ColumnMajor, 8,
      Output, cutlass::layout::ColumnMajor, 8, EpilogueSchedule, Fusion>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Input, cutlass::layout::RowMajor, 16, Input,
      cutlass::layout::ColumnMajor, 16, Sum, TileShape, ClusterShape,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
          sizeof(typename Epilogue::SharedStorage))>,
      MainloopSchedule>::CollectiveOp;
  using Scheduler =
      cute::conditional_t<kStreamK, cutlass::gemm::StreamKScheduler, cutlass::gemm::PersistentScheduler>;
  using Kernel =
      cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, Epilogue, Scheduler>;
  using Arguments = typename Kernel::Arguments;

  static Arguments arguments(const Problem& problem) {
    Arguments result;
    result.mode = cutlass::gemm::GemmUniversalMode::kGemm;
    result.problem_shape = {static_cast<int>(problem.channels), static_cast<int>(problem.tokens),
                            static_cast<int>(problem.k), 1};
    result.mainloop.ptr_A = static_cast<const Input*>(problem.w);
    result.mainloop.dA = {problem.k, cute::_1{}, 0};
    result.mainloop.ptr_B = static_cast<const Input*>(problem.x);
    result.mainloop.dB = {problem.ldx, cute::_1{}, 0};
    // x + -0 is x for every x, so that one kernel serves with and without a bias.
    result.epilogue.thread = {{{{}, {problem.x_scale, 0.0F, {}}, {}}, {problem.w_scale, 0.0F, {}}, {}},
                              {problem.bias, -0.0F, {}},
                              {}};
    result.epilogue.ptr_D = static_cast<Output*>(problem.out);
    result.epilogue.dD = {cute::_1{}, problem.ldout, 0};
    result.hw_info.sm_count = problem.multiprocessors;
    result.scheduler.max_swizzle_size = problem.swizzle;
    if constexpr (kStreamK) {
      result.scheduler.splits = problem.splits > 1 ? problem.splits : 1;
      using Mode = decltype(result.scheduler.decomposition_mode);
      result.scheduler.decomposition_mode = problem.splits > 1    ? Mode::SplitK
                                            : problem.splits == 1 ? Mode::StreamK
                                                                  : Mode::DataParallel;
    }
    return result;
  }

  static bool can_implement(const Problem& problem) { return Kernel::can_implement(arguments(problem)); }

  static std::int64_t workspace_bytes(const Problem& problem) {
    return static_cast<std::int64_t>(Kernel::get_workspace_size(arguments(problem)));
  }

  static int prepare() {
    return cudaFuncSetAttribute(cutlass::device_kernel<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                Kernel::SharedStorageSize);
  }

  static int resources(Resources* result) {
    cudaFuncAttributes attributes{};
    const cudaError_t status = cudaFuncGetAttributes(&attributes, cutlass::device_kernel<Kernel>);
    *result = {attributes.numRegs, static_cast<int>(attributes.localSizeBytes), Kernel::SharedStorageSize,
               Mainloop::DispatchPolicy::Stages};
    return status;
  }

  static int run(const Problem& problem, void* workspace, void* stream) {
    const auto queue = static_cast<cudaStream_t>(stream);
    const Arguments args = arguments(problem);
    if (kStreamK && problem.splits > 0) {  // the counters of tiles that several blocks work on
      if (Kernel::initialize_workspace(args, workspace, queue) != cutlass::Status::kSuccess) {
        const cudaError_t status = cudaGetLastError();
        return status == cudaSuccess ? cudaErrorUnknown : status;
      }
    }
    typename Kernel::Params params = Kernel::to_underlying_arguments(args, workspace);
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = Cluster;
    cluster.val.clusterDim.y = 1;
    cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = Kernel::get_grid_shape(params);
    config.blockDim = Kernel::get_block_shape();
    config.dynamicSmemBytes = Kernel::SharedStorageSize;
    config.stream = queue;
    config.attrs = &cluster;
    config.numAttrs = 1;
    void* parameters[] = {&params};
    return cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(cutlass::device_kernel<Kernel>),
                               parameters);
  }

  static Variant variant() {
    return {Type, Channels, Tokens, K, Cluster, How, can_implement, workspace_bytes, prepare, resources, run};
  }
};

}  // namespace slidesparse::cutlass_gemm
