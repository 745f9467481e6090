// Pack, unpack and check speed on one core: bytes_per_second counts dense bytes, in for packing and checking,
// out for unpacking. One matrix of 1024 rows of 3584 channels, in the cache after the first pass.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/cpu.h"
#include "core/random.h"
#include "slidesparse/format/codes.h"
#include "slidesparse/format/pack.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kRows = 1024;
constexpr std::int64_t kK = 3584;  // Qwen2.5-7B's hidden size

// A dense matrix that obeys the pattern, each group with its own random mask, and its packed form.
struct Matrix {
  Pattern pattern;
  DType dtype;
  Buffer dense;
  Buffer values;
  Buffer codes;

  Matrix(Pattern matrix_pattern, DType matrix_dtype)
      : pattern(matrix_pattern),
        dtype(matrix_dtype),
        dense(kRows * kK * dtype_size(dtype)),
        values(static_cast<std::size_t>(view().value_bytes())),
        codes(static_cast<std::size_t>(view().code_bytes())) {
    Random random(1);
    const std::size_t size = dtype_size(dtype);
    for (std::int64_t row = 0; row < kRows; ++row) {
      std::uint32_t kept = 1;
      for (std::int64_t lane = 0; lane < kK; ++lane) {
        const std::int64_t slot = lane % pattern.group();
        if (slot == 0 && !pattern.is_dense()) {
          kept = kept_mask(pattern, static_cast<int>(random.below(code_count(pattern))));
        }
        for (std::size_t byte = 0; byte < size; ++byte) {
          const auto value = static_cast<std::uint8_t>(kept >> slot & 1u ? 1 + random.below(120) : 0);
          dense.as<std::uint8_t>()[static_cast<std::size_t>(row * kK + lane) * size + byte] = value;
        }
      }
    }
    pack();
  }

  PackedView view() const { return {pattern, dtype, kRows, kK, values.data(), codes.as<std::uint8_t>()}; }
  void pack() {
    benchmark::DoNotOptimize(
        pack_rows(pattern, dtype, dense.data(), kRows, kK, kK, values.data(), codes.as<std::uint8_t>()));
  }
};

enum class Work { kPack, kUnpack, kValidate, kFindViolation };

void run(benchmark::State& state, Work work, Pattern pattern, DType dtype, Isa isa) {
  force_isa(isa);
  Matrix matrix(pattern, dtype);
  while (state.KeepRunning()) {
    switch (work) {
      case Work::kPack:
        matrix.pack();
        break;
      case Work::kUnpack:
        unpack_rows(matrix.view(), 0, kRows, matrix.dense.data(), kK);
        break;
      case Work::kValidate:
        validate_packed(matrix.view());
        break;
      case Work::kFindViolation:
        benchmark::DoNotOptimize(find_violation(pattern, dtype, matrix.dense.data(), kRows, kK, kK));
        break;
    }
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * kRows * kK *
                          static_cast<std::int64_t>(dtype_size(dtype)));
  force_isa(std::nullopt);
}

void register_all() {
  const std::vector<std::pair<Work, std::string>> works{{Work::kPack, "pack"},
                                                        {Work::kUnpack, "unpack"},
                                                        {Work::kValidate, "validate"},
                                                        {Work::kFindViolation, "find_violation"}};
  for (const auto& [work, name] : works) {
    for (const Isa isa : {Isa::kAvx512, Isa::kAvx2, Isa::kPortable}) {
      if (isa > detected_isa()) continue;
      for (const DType dtype : {DType::kF8E4M3, DType::kBF16}) {
        for (int n = 2; n <= 9; ++n) {
          const Pattern pattern = n == 9 ? Pattern() : Pattern::of_half_group(n);
          // Dense has nothing to check.
          if (pattern.is_dense() && (work == Work::kValidate || work == Work::kFindViolation)) continue;
          const std::string title = name + "/" + pattern.to_string() + "/" + std::string(dtype_name(dtype)) +
                                    "/" + std::string(isa_name(isa));
          benchmark::RegisterBenchmark(title.c_str(),
                                       [work = work, pattern, dtype, isa](benchmark::State& state) {
                                         run(state, work, pattern, dtype, isa);
                                       });
        }
      }
    }
  }
}

}  // namespace
}  // namespace slidesparse

int main(int argc, char** argv) {
  slidesparse::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
