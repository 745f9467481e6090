#include <algorithm>
#include <array>
#include <vector>

#include "core/cuda/memory.h"
#include "core/cuda/status.h"
#include "core/cuda/stream.h"
#include "core/samples.h"
#include "gemm/machine_limits.h"

namespace slidesparse {
namespace {

// Dense operations (a multiplication and an addition are two) of one multiprocessor in one cycle, and the
// boost clock at which the makers' figures are stated. From NVIDIA's data sheets: H100/H200 SXM 1979 TFLOP/s
// FP8 and TOP/s INT8, 989 BF16 with 132 multiprocessors at 1.83 GHz; A100 624 INT8, 312 BF16 with 108
// at 1.41; RTX 4090 661 FP8 and INT8, 165 BF16 with 128 at 2.52.
struct Peak {
  int compute_capability;
  double int8, fp8, bf16, clock;
};
constexpr std::array kPeaks{
    Peak{80, 4096, 0, 2048, 1.41e9},
    Peak{89, 2048, 2048, 512, 2.52e9},
    Peak{90, 8192, 8192, 4096, 1.83e9},
};

// Far beyond any cache, well below any card's memory.
constexpr std::int64_t kCopyBytes = std::int64_t{512} << 20;
constexpr int kCopies = 9;

double copy_bytes_per_second() {
  const CudaStream stream;
  DeviceBuffer from(kCopyBytes, "copy source");
  DeviceBuffer to(kCopyBytes, "copy target");
  fill_device(from.data(), 1, kCopyBytes, stream.handle());
  std::vector<double> seconds;
  for (int i = 0; i < kCopies; ++i) {
    CudaEvent start, end;
    start.record(stream.handle());
    copy_on_device(to.data(), from.data(), kCopyBytes, stream.handle());
    end.record(stream.handle());
    end.synchronize();
    seconds.push_back(end.seconds_since(start));
  }
  return 2.0 * static_cast<double>(kCopyBytes) / summarise(seconds).median;
}

}  // namespace

MachineLimits measure_card_limits() {
  MachineLimits limits;
  limits.read_bytes_per_second = copy_bytes_per_second();
  const CudaDeviceInfo& card = cuda_status().devices.front();
  for (const Peak& peak : kPeaks) {
    if (peak.compute_capability != card.compute_capability()) continue;
    const double cycles = peak.clock * card.multiprocessors;
    limits.int8_ops_per_second = peak.int8 * cycles;
    limits.fp8_flops_per_second = peak.fp8 * cycles;
    limits.bf16_flops_per_second = peak.bf16 * cycles;
  }
  return limits;
}

}  // namespace slidesparse
