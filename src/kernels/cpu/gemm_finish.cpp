#include "kernels/cpu/gemm_finish.h"

#include "core/numeric.h"

namespace slidesparse {
namespace {

// Values that pass between the steps, so that each is a loop of its own that the compiler makes vectors of.
constexpr std::int64_t kPiece = 64;

void finish_piece(const GemmFinish& finish, float* values, std::int64_t first, std::int64_t count,
                  void* out) {
  if (finish.w_scale != nullptr) {
    const float* scale = finish.w_scale + first;
    for (std::int64_t i = 0; i < count; ++i) values[i] = values[i] * finish.x_scale * scale[i];
  }
  if (finish.bias != nullptr) {
    const float* bias = finish.bias + first;
    for (std::int64_t i = 0; i < count; ++i) values[i] += bias[i];
  }
  if (finish.out_dtype == DType::kF32) {
    float* to = static_cast<float*>(out) + first;
    for (std::int64_t i = 0; i < count; ++i) to[i] = values[i];
  } else {
    auto* to = static_cast<std::uint16_t*>(out) + first;
    for (std::int64_t i = 0; i < count; ++i) to[i] = float_to_bf16(values[i]);
  }
}

template <typename Load>
void finish_all(const GemmFinish& finish, std::int64_t count, void* out, const Load& load) {
  float values[kPiece];
  for (std::int64_t first = 0; first < count; first += kPiece) {
    const std::int64_t here = count - first < kPiece ? count - first : kPiece;
    for (std::int64_t i = 0; i < here; ++i) values[i] = load(first + i);
    finish_piece(finish, values, first, here, out);
  }
}

}  // namespace

void gemm_finish(const GemmFinish& finish, const std::int32_t* sums, std::int64_t count, void* out) {
  // Sums wrap around while they carry the offset; the difference is exact.
  const auto offset = static_cast<std::uint32_t>(finish.offset);
  finish_all(finish, count, out, [&](std::int64_t i) {
    return static_cast<float>(static_cast<std::int32_t>(static_cast<std::uint32_t>(sums[i]) - offset));
  });
}

void gemm_finish(const GemmFinish& finish, const float* sums, std::int64_t count, void* out) {
  finish_all(finish, count, out, [&](std::int64_t i) { return sums[i]; });
}

}  // namespace slidesparse
