#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/device.h"
#include "gemm/desc.h"

namespace slidesparse {

// Weights in the form that a kernel wants; made once a layer.
class PreparedWeights {
 public:
  virtual ~PreparedWeights() = default;
  virtual std::int64_t allocated_bytes() const = 0;
  // Where Footprint::gathered says so: lane i of X holds channel input_order()[i], [k] on the card.
  virtual const std::int32_t* input_order() const { return nullptr; }
  // The same on the host.
  virtual std::span<const std::int32_t> input_order_on_host() const { return {}; }
};

// A kernel bound to a problem. Immutable: one plan may run on many layers of the same shape.
struct GemmPlan {
  GemmDesc desc;
  KernelDesc kernel;
  std::int64_t workspace_bytes = 0;
  std::shared_ptr<const void> state;  // the backend's own: library descriptors, tensor maps
};

// The five steps (docs/map.md): feasible and footprint allocate nothing; prepare_weights once a layer and
// form; plan for an M; run, which neither allocates nor synchronises beyond its own threads and, on CUDA, can
// be captured in a graph.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;
  // "available", or why not.
  virtual Feasibility available() const = 0;
  // Of the library behind it, "130100": measured times belong to it. Empty without one.
  virtual std::string version() const { return {}; }
  // Where its kernels run: problems of another device are not its own.
  virtual DeviceKind device() const { return DeviceKind::kCpu; }
  // Every kernel this backend has on this machine under active_isa(); where a library offers many settings
  // for one, with the library's default ones (empty config).
  virtual std::vector<KernelDesc> kernels() const = 0;
  // What a tuner should measure for `desc`: feasible kernels, each with the settings that the library thinks
  // worth a try, likely ones first. May ask the library, which takes milliseconds.
  virtual std::vector<KernelDesc> candidates(const GemmDesc& desc) const;
  virtual Feasibility feasible(const GemmDesc& desc, const KernelDesc& kernel) const = 0;
  virtual Footprint footprint(const GemmDesc& desc, const KernelDesc& kernel) const = 0;
  // Kernels with equal weight_form() share prepared weights, whatever their backend, so that one copy serves
  // every M: "stored", "dense 4608x3584".
  virtual std::string weight_form(const GemmDesc& desc, const KernelDesc& kernel) const = 0;
  virtual std::unique_ptr<PreparedWeights> prepare_weights(const WeightSource& source, const GemmDesc& desc,
                                                           const KernelDesc& kernel) const = 0;
  virtual GemmPlan plan(const GemmDesc& desc, const KernelDesc& kernel) const = 0;
  // `context.arena` must have plan.workspace_bytes to give.
  virtual void run(const GemmPlan& plan, const PreparedWeights& weights, const GemmArgs& args,
                   const Context& context) const = 0;
};

// All backends of this build, in the order in which they are preferred: those of GPUs, cpu, reference.
const std::vector<const Backend*>& backends();
// Throws kUsage with the list for an unknown name.
const Backend& backend_named(std::string_view name);

// Whether a list of backends lets this one take part; an empty list: all but the reference.
bool is_allowed(std::string_view name, std::span<const std::string> allowed);

class TuningCache;

// A (backend, kernel) pair that can run a problem, and why the others cannot.
struct Choice {
  const Backend* backend = nullptr;
  KernelDesc kernel;
  std::string reason;               // why this one
  std::vector<std::string> others;  // "reference: slower by rule", "cpu/...: needs AVX-512"

  // From measurements only; otherwise 0 and empty.
  double seconds = 0;  // expected, with everything that the kernel needs around it
  std::string runner_up;
  double runner_up_seconds = 0;
};
// Pure: the fastest kernel for the problem among `allowed` backends (empty: all but reference; reference only
// when named or when nothing else is feasible), and among those that read one of `forms` of the weights
// (empty: any; gemm/weight_forms.h). Measured times decide (rank_measured in gemm/tuning_cache.h) where there
// are any for this problem without its M, stated rules (src/gemm/choose.cpp) where there are none. Throws
// kUnsupported with all the reasons when nothing can run it.
Choice choose(const GemmDesc& desc, std::span<const std::string> allowed = {},
              const TuningCache* measured = nullptr, std::span<const std::string> forms = {});

}  // namespace slidesparse
