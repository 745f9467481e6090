#include "kernels/cuda/quantize.h"

#include <algorithm>

#include "kernels/cuda/quantize_plan.cuh"

namespace slidesparse::cuda {
namespace {

// The rows of a block's registers: 1024 threads with 4 vectors of 8 elements.
constexpr std::int64_t kLongestRow = 1024 * 4 * 8;
constexpr std::int64_t kMostRows = 2147483647;  // blocks of a grid
constexpr std::int64_t kMostLanes = 1 << 30;
// With fewer rows than this every row gets all the threads that it can use: the card is not full anyway.
constexpr std::int64_t kFewRows = 512;

bool is_multiple(const void* pointer, std::uintptr_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

std::int64_t lanes_out(const QuantizeArgs& a) {
  return a.lift == 0 ? a.k : (a.k + 2 * a.lift - 1) / (2 * a.lift) * 4 * (a.lift - 1);
}

// Whether the arguments describe something: nothing is launched otherwise.
bool is_valid(const QuantizeArgs& a) {
  const bool eight_bits = a.out == DType::kI8 || a.out == DType::kF8E4M3;
  if (!eight_bits && a.out != DType::kBF16) return false;
  if (a.m < 0 || a.k < 0 || a.k > kMostLanes || a.ldq > kMostLanes) return false;
  if (std::max(a.m, a.m_padded) > kMostRows) return false;
  if (a.lift != 0 && (a.lift < 2 || a.lift > 8 || a.perm != nullptr)) return false;
  if (a.ldq < lanes_out(a) || a.q == nullptr || (eight_bits && a.scale == nullptr)) return false;
  if (!eight_bits && !is_multiple(a.q, 2)) return false;
  if (a.m == 0 || a.k == 0) return true;
  if (a.x == nullptr || !is_multiple(a.x, 2)) return false;
  if (a.m > 1 && a.ldx < (a.producer == Producer::kSiluMul ? 2 * a.k : a.k)) return false;
  if (a.producer == Producer::kRmsNorm) {
    if (a.norm_weight == nullptr || !is_multiple(a.norm_weight, 2) || !is_multiple(a.update, 2) ||
        !is_multiple(a.residual_out, 2) || !is_multiple(a.normed_out, 2)) {
      return false;
    }
  }
  return true;
}

QuantizePlan make_plan(const QuantizeArgs& args) {
  QuantizePlan plan;
  plan.args = args;
  QuantizeArgs& a = plan.args;
  if (a.lift == 2) a.lift = 0;  // 4:2N with N = 2 lifts to itself, but for the tail that is zero anyway
  plan.rows = std::max(a.m, a.m_padded);
  plan.k_out = lanes_out(a);
  plan.vectors = static_cast<int>((a.k + 7) / 8);
  const std::int64_t element = a.out == DType::kBF16 ? 2 : 1;
  if (a.lift != 0) {
    const auto parts = static_cast<std::uint32_t>(a.lift - 1);
    plan.windows = static_cast<int>(plan.k_out / 4);
    plan.window_magic = 0xffffffffu / parts + 1;
    plan.pair_magic = 0xffffffffu / static_cast<std::uint32_t>(a.lift) + 1;
  }
  const bool in_registers = a.k <= kLongestRow;
  if (a.lift != 0 && element == 1 && in_registers) {
    plan.lifted = static_cast<int>((plan.k_out + 15) / 16 * 16);
    plan.lifted_vectors = (plan.windows / (a.lift - 1) * a.lift + 3) / 4;
    plan.row_bytes = plan.lifted;
  } else if (a.lift != 0 || a.perm != nullptr) {
    // To the end of the last group, and vectors as a whole.
    plan.staged = static_cast<int>((a.k + 16 + 31) / 32 * 32);
    plan.row_bytes = static_cast<int>(plan.staged * element);
  }
  bool wide = a.k % 8 == 0 && is_multiple(a.x, 16) && a.ldx % 8 == 0;
  if (a.producer == Producer::kRmsNorm) {
    wide = wide && is_multiple(a.update, 16) && is_multiple(a.residual_out, 16) &&
           is_multiple(a.norm_weight, 16) && is_multiple(a.normed_out, 16);
    plan.row_bytes = std::max(plan.row_bytes, plan.vectors * 16);
  }
  plan.wide_in = wide;
  // Straight 8-bit codes leave registers 8 at a time; everything else 16 bytes at a time.
  const bool straight = plan.staged == 0 && plan.lifted == 0;
  const std::int64_t store = straight && element == 1 && in_registers ? 8 : 16;
  plan.wide_out = is_multiple(a.q, static_cast<std::uintptr_t>(store)) && a.ldq * element % store == 0;
  plan.wide_perm = is_multiple(a.perm, 16);
  return plan;
}

QuantizeShape make_shape(const QuantizePlan& plan) {
  const auto whole_warps = [](int threads) { return std::max(32, (threads + 31) / 32 * 32); };
  QuantizeShape shape;
  const bool few = plan.rows <= kFewRows;
  if (plan.vectors <= 32 || (few && plan.vectors <= 1024)) {
    shape.depth = 1;
    shape.threads = whole_warps(plan.vectors);
  } else {
    shape.depth = 4;
    shape.threads = few ? 1024 : whole_warps((plan.vectors + 3) / 4);
  }
  // Many small blocks would come and go faster than the card can start them.
  const int wanted = plan.args.producer == Producer::kSiluMul ? 640 : 512;
  const int most = shape.threads == 32 ? 16 : 8;
  shape.rows = few ? 1 : std::clamp(wanted / shape.threads, 1, most);
  return shape;
}

}  // namespace

int quantize(const QuantizeArgs& args, void* stream) {
  if (!is_valid(args)) return cudaErrorInvalidValue;
  const QuantizePlan plan = make_plan(args);
  if (plan.rows == 0) return cudaSuccess;
  const auto handle = static_cast<cudaStream_t>(stream);
  if (args.k > kLongestRow) return launch_long(plan, handle);
  if (can_gather_few(plan)) return launch_gather_few(plan, handle);
  if (can_gather(plan)) return launch_gather(plan, handle);
  if (can_spread(plan)) return launch_spread(plan, handle);
  if (can_stream(plan)) return launch_stream(plan, handle);
  const QuantizeShape shape = make_shape(plan);
  switch (args.producer) {
    case Producer::kRmsNorm:
      return launch_norm(plan, shape, handle);
    case Producer::kSiluMul:
      return launch_silu(plan, shape, handle);
    default:
      return launch_plain(plan, shape, handle);
  }
}

}  // namespace slidesparse::cuda
