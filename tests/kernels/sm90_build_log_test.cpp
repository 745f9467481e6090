// What ptxas said of Hopper's kernels (cmake/keep_log.sh): no registers spilled, no wgmma serialised. Either
// costs a kernel most of its speed without a word from the compiler.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace slidesparse {
namespace {

TEST(Sm90BuildLog, NothingSpilledAndNothingSerialised) {
#ifndef SLIDESPARSE_SM90_LOGS
  GTEST_SKIP() << "built without CUDA code";
#else
  int instances = 0, kernels = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(SLIDESPARSE_SM90_LOGS)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("sm90_", 0) != 0 || name.find(".cu.o.log") == std::string::npos) continue;
    for (const char* type : {"sm90_fp8_", "sm90_int8_", "sm90_bf16_"}) instances += name.rfind(type, 0) == 0;
    std::ifstream log(entry.path());
    for (std::string line; std::getline(log, line);) {
      EXPECT_EQ(line.find("serializ"), std::string::npos) << name << ": " << line;
      EXPECT_EQ(line.find("C75"), std::string::npos) << name << ": " << line;
      if (line.find("spill stores") == std::string::npos) continue;
      ++kernels;
      EXPECT_NE(line.find(" 0 bytes spill stores, 0 bytes spill loads"), std::string::npos)
          << name << ": " << line;
    }
  }
  EXPECT_GE(instances, 22) << SLIDESPARSE_SM90_LOGS;
  EXPECT_GE(kernels, instances);
#endif
}

}  // namespace
}  // namespace slidesparse
