// How fast tokens are drawn: a table, and bounds so loose that only a broken kernel breaks them.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels/cuda/device_test.h"
#include "kernels/cuda/fill.h"
#include "kernels/cuda/sample.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kVocab = 151936;
constexpr std::int64_t kCold = std::int64_t{160} << 20;  // bytes, beyond any second-level cache
constexpr int kRuns = 20;

struct Way {
  const char* name;
  SampleRow row;
  bool all_greedy;
  bool with_logprob;
};
constexpr Way kWays[] = {
    {"greedy", {}, true, false},
    {"greedy, logprob", {}, true, true},
    {"temperature 1", {.temperature = 1}, false, false},
    {"top-k 50", {.temperature = 1, .top_k = 50}, false, false},
    {"top-p 0.9", {.temperature = 1, .top_p = 0.9f}, false, false},
    {"0.6, top-k 20, top-p 0.95", {.temperature = 0.6f, .top_p = 0.95f, .top_k = 20}, false, false}};

class CudaSampleSpeed : public DeviceTest {};

TEST_F(CudaSampleSpeed, Table) {
  const CudaStream stream;
  // Of a standard deviation of 1: flatter than a model's, so that top-p keeps most of the vocabulary.
  constexpr std::int64_t kMostRows = 512;
  const std::int64_t most = std::max(kMostRows * kVocab * 4, kCold);
  SLIDESPARSE_NEED_MEMORY(most);
  DeviceBuffer logits(most, "logits");
  cuda_check(cuda::fill_random(DType::kF32, logits.data(), most / 4, 1, stream.handle()), "fill_random");
  DeviceBuffer workspace(cuda::sample_workspace_bytes(kMostRows, kVocab), "workspace");
  DeviceBuffer token(kMostRows * 4, "token");
  DeviceBuffer logprob(kMostRows * 4, "logprob");
  fmt::print("{:>5} {:<26} {:>9} {:>8}\n", "rows", "way", "us", "GB/s");
  for (const std::int64_t rows : {1, 64, 512}) {
    const std::int64_t bytes = rows * kVocab * 4;
    const std::int64_t copies = most / bytes;
    for (const Way& way : kWays) {
      std::vector<SampleRow> host(static_cast<std::size_t>(rows), way.row);
      for (std::size_t r = 0; r < host.size(); ++r) host[r].seed = r;
      OnDevice row(host, stream);
      cuda::SampleArgs args;
      args.ld = kVocab;
      args.rows = rows;
      args.vocab = kVocab;
      args.row = row.data();
      args.all_greedy = way.all_greedy;
      args.token = token.as<std::int32_t>();
      args.logprob = way.with_logprob ? logprob.as<float>() : nullptr;
      args.workspace = workspace.data();
      const CudaGraph graph(stream, [&] {
        for (int i = 0; i < kRuns; ++i) {
          args.logits = logits.as<float>() + i % copies * rows * kVocab;
          cuda_check(cuda::sample(args, stream.handle()), "sample");
        }
      });
      graph.launch(stream.handle());
      CudaEvent start, end;
      start.record(stream.handle());
      graph.launch(stream.handle());
      end.record(stream.handle());
      end.synchronize();
      const double seconds = end.seconds_since(start) / kRuns;
      const double speed = static_cast<double>(bytes) / seconds * 1e-9;
      fmt::print("{:>5} {:<26} {:>9.1f} {:>8.0f}\n", rows, way.name, seconds * 1e6, speed);
      if (rows == kMostRows) {
        EXPECT_GT(speed, way.all_greedy ? 200.0 : 10.0) << way.name;
      }
    }
  }
}

}  // namespace
}  // namespace slidesparse
