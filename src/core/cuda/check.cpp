#include "core/cuda/check.h"

#include <cuda_runtime_api.h>

#include <utility>

#include "core/fail.h"

namespace slidesparse {

void cuda_check(int status, std::string_view call, std::string_view what, std::string_view file, int line) {
  if (status == cudaSuccess) return;
  const auto code = static_cast<cudaError_t>(status);
  const bool of_the_card = code == cudaErrorMemoryAllocation || code == cudaErrorNoDevice ||
                           code == cudaErrorInsufficientDriver || code == cudaErrorNoKernelImageForDevice;
  if (const auto at = file.rfind("src/"); at != std::string_view::npos) file.remove_prefix(at);
  ErrorFacts facts;
  facts.cuda_status = status;
  fail_with(std::move(facts), of_the_card ? ErrorKind::kUnsupported : ErrorKind::kInternal,
            "{}{}{}: {} ({}), {}:{}", call, what.empty() ? "" : " ", what, cudaGetErrorName(code),
            cudaGetErrorString(code), file, line);
}

}  // namespace slidesparse
