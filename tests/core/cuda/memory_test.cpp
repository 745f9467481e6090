#include "core/cuda/memory.h"

#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "core/cuda/status.h"
#include "core/cuda/stream.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Pair;

class CudaMemory : public testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_status().available) GTEST_SKIP() << cuda_status().reason;
  }
  void TearDown() override {
    set_device_memory_limit(0);
    set_device_memory_guard(std::getenv("SLIDESPARSE_GUARD_PAGES") != nullptr);
  }
};

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST_F(CudaMemory, LedgerKnowsNamesAndPeak) {
  const std::int64_t before = device_memory_use().in_use;
  reset_device_memory_peak();
  {
    DeviceBuffer a(1 << 20, "weights");
    DeviceBuffer b(1 << 10, "cache");
    DeviceBuffer moved = std::move(a);
    EXPECT_EQ(moved.size(), 1 << 20);
    const DeviceMemoryUse use = device_memory_use();
    EXPECT_EQ(use.in_use - before, (1 << 20) + (1 << 10));
    ASSERT_GE(use.by_name.size(), 2u);
    EXPECT_EQ(use.by_name.front().name, "weights");
    moved = DeviceBuffer();
    // What it held went to the temporary, which is gone.
    EXPECT_EQ(device_memory_use().in_use - before, 1 << 10);
  }
  EXPECT_EQ(device_memory_use().in_use, before);
  EXPECT_EQ(device_memory_use().peak - before, (1 << 20) + (1 << 10));
}

TEST_F(CudaMemory, GuardedBuffersEndWhereNothingIsMapped) {
  set_device_memory_guard(true);
  std::byte* stale = nullptr;
  for (const std::int64_t bytes : {1, 256, 1000, 1 << 21, (1 << 21) + 1}) {
    DeviceBuffer buffer(bytes, "guarded");
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 256, 0u);
    const auto whole = static_cast<std::size_t>((bytes + 255) / 256 * 256);
    EXPECT_EQ(cudaMemset(buffer.data(), 7, whole), cudaSuccess);
    EXPECT_NE(cudaMemset(buffer.data() + whole, 7, 1), cudaSuccess) << bytes;
    cudaGetLastError();
    stale = buffer.data();
  }
  EXPECT_NE(cudaMemset(stale, 7, 1), cudaSuccess);
  cudaGetLastError();
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

TEST_F(CudaMemory, LimitMakesACardSmaller) {
  set_device_memory_limit(device_memory_use().in_use + (3 << 20));
  const DeviceBuffer a(2 << 20, "first");
  EXPECT_THAT(message_of([] { DeviceBuffer b(2 << 20, "second"); }),
              AllOf(HasSubstr("second"), HasSubstr("2097152 bytes wanted"), HasSubstr("limit")));
  EXPECT_NO_THROW(DeviceBuffer(1 << 20, "third"));
  try {
    const DeviceBuffer b(2 << 20, "fourth");
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    ASSERT_NE(error.facts(), nullptr);
    EXPECT_EQ(error.facts()->needed_bytes, 2 << 20);
    EXPECT_EQ(error.facts()->free_bytes, 1 << 20);
    EXPECT_THAT(error.facts()->holders, Contains(Pair("first", 2 << 20)));
  }
}

TEST_F(CudaMemory, MoreThanTheCardHasIsOneClearError) {
  EXPECT_THAT(message_of([] { DeviceBuffer b(std::int64_t{1} << 50, "huge"); }),
              AllOf(HasSubstr("huge"), HasSubstr("1125899906842624 bytes wanted"), HasSubstr("free")));
  // The error was not left behind for the next call.
  EXPECT_NO_THROW(DeviceBuffer(1 << 20, "after"));
}

TEST_F(CudaMemory, NothingIsAllocatedForNothing) {
  const DeviceBuffer empty(0, "empty");
  EXPECT_EQ(empty.data(), nullptr);
  EXPECT_EQ(device_memory_use().in_use, 0);
}

TEST_F(CudaMemory, CopiesThereAndBack) {
  const CudaStream stream;
  constexpr std::int64_t kBytes = 1 << 20;
  PinnedBuffer out(kBytes), back(kBytes);
  for (std::int64_t i = 0; i < kBytes; ++i) out.data()[i] = static_cast<std::byte>(i * 7);
  DeviceBuffer a(kBytes, "a"), b(kBytes, "b");
  copy_to_device(a.data(), out.data(), kBytes, stream.handle());
  fill_device(b.data(), 0xff, kBytes, stream.handle());
  copy_on_device(b.data(), a.data(), kBytes - 1, stream.handle());
  copy_to_host(back.data(), b.data(), kBytes, stream.handle());
  stream.synchronize();
  EXPECT_EQ(std::memcmp(out.data(), back.data(), kBytes - 1), 0);
  EXPECT_EQ(back.data()[kBytes - 1], std::byte{0xff});
}

TEST_F(CudaMemory, EventsMeasureAndGraphsReplay) {
  const CudaStream stream;
  constexpr std::int64_t kBytes = 64 << 20;
  DeviceBuffer a(kBytes, "a"), b(kBytes, "b");
  fill_device(a.data(), 1, kBytes, stream.handle());
  fill_device(b.data(), 2, kBytes, stream.handle());
  const CudaGraph graph(stream, [&] { copy_on_device(b.data(), a.data(), kBytes, stream.handle()); });
  std::byte first{};
  copy_to_host(&first, b.data(), 1, stream.handle());
  stream.synchronize();
  EXPECT_EQ(first, std::byte{2}) << "recording must not run anything";
  CudaEvent start, end;
  start.record(stream.handle());
  graph.launch(stream.handle());
  end.record(stream.handle());
  end.synchronize();
  EXPECT_GT(end.seconds_since(start), 1e-6);
  copy_to_host(&first, b.data() + kBytes - 1, 1, stream.handle());
  stream.synchronize();
  EXPECT_EQ(first, std::byte{1});
}

TEST_F(CudaMemory, AllocatingWhileRecordingFails) {
  const CudaStream stream;
  EXPECT_THROW(CudaGraph(stream, [&] { stream.synchronize(); }), Error);
  // The stream works again.
  const DeviceBuffer a(16, "a");
  EXPECT_NO_THROW(stream.synchronize());
}

}  // namespace
}  // namespace slidesparse
