#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/samples.h"
#include "gemm/desc.h"

namespace slidesparse {

// What measured figures belong to: with another driver, library or program they say nothing.
struct TuningMachine {
  std::string device;     // "NVIDIA H200"; on the CPU the processor, instruction set and threads
  std::string driver;     // "13.0"; empty on the CPU
  std::string libraries;  // "cublaslt 130100, cusparselt 800": what the backends of the device use
  std::string program;    // our own version

  auto operator<=>(const TuningMachine&) const = default;  // NOLINT(modernize-use-nullptr): there is no zero
};
// The card that is used, or the processor, as they are now.
TuningMachine tuning_machine(DeviceKind kind);

// A problem without its M.
struct TuningProblem {
  DType dtype = DType::kI8;
  Pattern pattern;
  Layout layout = Layout::kDense;
  std::int64_t n = 0;
  std::int64_t k = 0;
  bool bias = false;
  DType out = DType::kBF16;  // or F32: kernels that write one may not write the other

  static TuningProblem of(const GemmDesc& desc);
  // The problem for `m` tokens on `device`.
  GemmDesc desc(std::int64_t m, Device device) const;
  bool operator<(const TuningProblem& other) const;
  bool operator==(const TuningProblem&) const = default;
};

// One kernel with one configuration, measured. Enough of its KernelDesc to name it again.
struct TunedKernel {
  std::string backend;
  std::string name;
  std::string config;
  int id = 0;
  bool sparse = false;
  bool two_roundings = false;
  bool reproducible = true;
  bool finalist = true;  // false: stopped early, because others were clearly faster
  Spread seconds;        // of everything: quantise, lift, GEMM, tail; count: timed windows; all zero when bad
  std::string bad;       // why it must not run: "illegal instruction", "wrong result: ..."; empty: fine

  bool same_kernel(const TunedKernel& other) const {
    return backend == other.backend && name == other.name && config == other.config;
  }
};

// What was measured for one problem and M.
struct TunedPoint {
  std::string mode;  // "sustained", "burst" (docs/bench.md), "cpu"
  std::vector<TunedKernel> kernels;
};
using TunedPoints = std::map<std::int64_t, TunedPoint>;  // by M

// Measurements, as they stand in a JSON file. Those of other machines are kept and written again, but never
// found: at() and points() know this machine's alone.
class TuningCache {
 public:
  explicit TuningCache(TuningMachine here) : here_(std::move(here)) {}

  // Throws kInput with file and line or field for text that is not such a file.
  static TuningCache parse(std::string_view text, const std::string& file, TuningMachine here);
  // A file that does not exist is an empty cache.
  static TuningCache load(const std::string& path, TuningMachine here);
  std::string to_json() const;
  // Adds what the file holds by now and this cache does not, then replaces the file, under a lock: processes
  // that tune at the same time lose nothing.
  void save(const std::string& path);

  void put(const TuningProblem& problem, std::int64_t m, TunedPoint point);
  const TunedPoint* at(const TuningProblem& problem, std::int64_t m) const;
  const TunedPoints* points(const TuningProblem& problem) const;
  // Takes everything from `other`; where both have measured the same, this cache's figures stay.
  void merge(const TuningCache& other);

  const TuningMachine& here() const { return here_; }
  std::int64_t size() const;   // points of this machine
  std::int64_t stale() const;  // points of the same device with another driver, library or program
  std::int64_t drop_stale();   // forgets those; returns how many

 private:
  using Problems = std::map<TuningProblem, TunedPoints>;
  TuningMachine here_;
  std::map<TuningMachine, Problems> machines_;
};

class Backend;
// The kernel that a measurement names, if this build and machine still have it.
std::optional<std::pair<const Backend*, KernelDesc>> find_kernel(const TunedKernel& tuned);

// A kernel's expected time at some M.
struct TimedKernel {
  const TunedKernel* kernel = nullptr;
  double seconds = 0;
  std::string how;  // "measured", "by rule: between M=64 and M=128", ...
};

// The kernels that `usable` accepts, fastest first (ties: by backend, name, config); those that were stopped
// early behind the others, because their times are rough:
//   M measured:            their times there
//   between two tuned M:   kernels known at both, linear in M; if there is none, those of the larger M with
//                          their times there
//   above the largest M:   times there, per token
//   below the smallest M:  times there
// Tuned M without any usable kernel do not count.
std::vector<TimedKernel> rank_measured(const TunedPoints& points, std::int64_t m,
                                       const std::function<bool(const TunedKernel&)>& usable);

}  // namespace slidesparse
