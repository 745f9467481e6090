#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/cpu.h"
#include "core/device.h"
#include "slidesparse/core/dtype.h"
#include "slidesparse/format/pattern.h"

namespace slidesparse {

// How weights are laid out when a kernel reads them.
enum class Layout { kDense, kPacked, kSlid, kSplit };
std::string_view layout_name(Layout layout);

// A problem: D[m, n] = X[m, k] W[n, k]^T, a value. With I8 or F8_E4M3 inputs the output is
// float(acc) * x_scale[m] * w_scale[n] + bias[n] in FP32, rounded once to `out`; with BF16 inputs the scales
// are absent.
struct GemmDesc {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  DType x = DType::kI8;      // I8, F8_E4M3 or BF16
  DType w = DType::kI8;      // the same type as x
  DType out = DType::kBF16;  // BF16 or F32
  Pattern pattern;
  Layout layout = Layout::kDense;  // of the stored weights
  bool bias = false;
  DType bias_dtype = DType::kF32;  // as stored; BF16 lets a library add it itself without rounding it
  std::int64_t ldx = 0;            // row stride of X in elements; 0: k
  std::int64_t ldout = 0;          // row stride of D in elements; 0: n
  Device device;
  std::string to_string() const;  // "I8 6:8 packed M=512 N=4608 K=3584"
};

// A kernel, a value: what `--explain` and every bench row print.
struct KernelDesc {
  std::string_view backend;  // "reference", "cpu", "cublaslt", ...
  std::string name;          // "cpu/avx512 packed 6:8 I8 stream", "cublaslt/outer-vector 66.23", ...
  std::string config;        // the backend's own settings as text, which plan() reads back; may be empty
  Isa isa = Isa::kPortable;
  bool sparse = false;  // does fewer multiplications than dense, or reads fewer weight bytes than dense
  bool two_roundings = false;  // rounds its sums once before the scales: up to 2 ulp from the oracle
  bool reproducible = true;    // the same bits every time
  int id = 0;                  // the backend's own number
};

// Yes, or the reason why not.
struct Feasibility {
  bool ok = true;
  std::string reason;
  static Feasibility no(std::string why) { return {false, std::move(why)}; }
};

// What a kernel needs; nothing is allocated to find out.
struct Footprint {
  std::int64_t weight_bytes = 0;  // that prepare_weights allocates (0 when it reads the mapped file in place)
  std::int64_t workspace_bytes = 0;  // for desc.m
  // The form of X that run() reads: [m_padded, k_padded] elements, lifted with half group `lift` (0: not
  // lifted). Rows m .. m_padded and lanes behind the (lifted) channels hold zeros. On the CPU X is [m, k]
  // always.
  std::int64_t m_padded = 0;
  std::int64_t k_padded = 0;
  int lift = 0;
  // Per run: what one pass over the weights moves (values + codes + scales).
  std::int64_t weight_bytes_read = 0;
  // X's lanes stand in the order of PreparedWeights::input_order(); never with `lift`.
  bool gathered = false;
};

// Weights as they come from a directory, in host memory: views that outlive everything prepared from them on
// the CPU; CUDA backends copy.
struct WeightSource {
  Layout layout = Layout::kDense;  // kDense, kPacked or kSplit
  Pattern pattern;
  DType dtype = DType::kI8;
  std::int64_t n = 0;
  std::int64_t k = 0;
  const void* values = nullptr;
  const std::uint8_t* codes = nullptr;  // packed and split
  std::span<const std::int32_t> perm;   // split
  const void* scales = nullptr;         // [n] of scale_dtype; null for BF16 weights
  DType scale_dtype = DType::kBF16;
  const void* bias = nullptr;  // [n] of bias_dtype, or null
  DType bias_dtype = DType::kBF16;
};

// Pointers of one run, on the problem's device.
struct GemmArgs {
  const void* x = nullptr;  // CPU: [m, k], row stride ldx; CUDA: as Footprint says, row stride k_padded
  const float* x_scale = nullptr;  // [m]; CUDA: [m_padded]; null for BF16
  void* out = nullptr;             // [m, n], row stride ldout
};

}  // namespace slidesparse
