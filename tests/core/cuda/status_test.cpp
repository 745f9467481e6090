#include "core/cuda/status.h"

#include <gtest/gtest.h>

namespace slidesparse {
namespace {

TEST(CudaStatus, IsAvailableOrSaysWhyNot) {
  const CudaStatus& status = cuda_status();
  EXPECT_EQ(status.available, status.reason.empty());
  EXPECT_EQ(status.available, !status.devices.empty() && status.devices.front().major >= 8);
  if (!status.available) {
    EXPECT_EQ(free_device_memory(), 0);
    return;
  }
  EXPECT_GT(free_device_memory(), 0);
  EXPECT_GT(status.devices.front().multiprocessors, 0);
  EXPECT_GE(status.driver_version, status.runtime_version / 1000 * 1000);
}

}  // namespace
}  // namespace slidesparse
