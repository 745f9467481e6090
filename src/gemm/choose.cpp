#include <algorithm>
#include <optional>

#include "core/cpu.h"
#include "core/fail.h"
#include "gemm/backend.h"
#include "gemm/backends/cpu_kernels.h"
#include "gemm/tuning_cache.h"

// Without measurements of a problem, these rules, fastest first. They were measured (docs/measurements.md);
// nothing here depends on data or on the clock. On the CPU:
//   1. cpu stream   M <= 6: rows are read once from memory and expanded in registers.
//   2. cpu amx      any weights and M on a machine with AMX; cpu tiles: many tokens where AVX2 is the best
//   there is.
//   3. cpu onednn   dense weights on such a machine.
//   4. cpu panel    any M.
//   5. cpu onednn   dense weights elsewhere: it needs a copy of the weights and is no faster than the panel.
//   6. reference    only when named, or when nothing else can.
// On a GPU the dense ones first, because a sparse one is faster only for some shapes, which is what tuning is
// for: 1. cutlass (scales and bias inside), 2. cublaslt, 3. native, the only one for split weights, 4.
// cusparselt.
namespace slidesparse {
namespace {

struct Candidate {
  const Backend* backend = nullptr;
  KernelDesc kernel;
  int rank = 0;
  std::string reason;
};

// Whether the kernel, which can run the problem, is allowed to by the forms of the weights that are kept.
Feasibility is_kept(const Backend& backend, const GemmDesc& desc, const KernelDesc& kernel,
                    std::span<const std::string> forms) {
  if (forms.empty()) return {};
  const std::string form = backend.weight_form(desc, kernel);
  if (std::find(forms.begin(), forms.end(), form) != forms.end()) return {};
  return Feasibility::no(fmt::format("weights are not kept in its form ({})", form));
}

Candidate judge(const Backend& backend, const KernelDesc& kernel) {
  if (backend.device() == DeviceKind::kCuda) {
    const std::string_view name = backend.name();
    const int rank = name == "cutlass" ? 1 : name == "cublaslt" ? 2 : name == "native" ? 3 : 4;
    return {&backend, kernel, rank, "not tuned for this shape: by rank of the backend"};
  }
  if (backend.name() != "cpu") return {&backend, kernel, 6, "the only one that can"};
  switch (cpu_kernel(kernel).method) {
    case CpuMethod::kStream:
      return {&backend, kernel, 1, "few tokens: rows are expanded in registers as they stream in"};
    case CpuMethod::kOneDnn:
      if (has_amx()) return {&backend, kernel, 3, "dense weights and AMX"};
      return {&backend, kernel, 5, "dense weights"};
    case CpuMethod::kTiles:
      return {&backend, kernel, 2,
              "many tokens: a panel of rows is expanded once for all of them, in groups of tokens"};
    default:
      return {&backend, kernel, 4, "many tokens: a panel of rows is expanded once for all of them"};
  }
}

// Adds what `backend` can run to `candidates` and one line for each distinct reason why not to `refusals`.
void collect(const Backend& backend, const GemmDesc& desc, std::span<const std::string> forms,
             std::vector<Candidate>& candidates, std::vector<std::string>& refusals) {
  if (backend.device() != desc.device.kind) {
    refusals.push_back(fmt::format("{}: runs on {} only", backend.name(),
                                   backend.device() == DeviceKind::kCpu ? "the CPU" : "NVIDIA GPUs"));
    return;
  }
  if (const Feasibility here = backend.available(); !here.ok) {
    refusals.push_back(fmt::format("{}: {}", backend.name(), here.reason));
    return;
  }
  for (const KernelDesc& kernel : backend.kernels()) {
    Feasibility answer = backend.feasible(desc, kernel);
    if (answer.ok) answer = is_kept(backend, desc, kernel, forms);
    if (answer.ok) {
      candidates.push_back(judge(backend, kernel));
      continue;
    }
    std::string line = fmt::format("{}: {}", backend.name(), answer.reason);
    if (std::find(refusals.begin(), refusals.end(), line) == refusals.end())
      refusals.push_back(std::move(line));
  }
}

// The kernel that a measurement names, if it can run the problem here.
std::optional<Candidate> find_again(const TunedKernel& tuned, const GemmDesc& desc,
                                    std::span<const std::string> allowed,
                                    std::span<const std::string> forms) {
  if (!is_allowed(tuned.backend, allowed)) return {};
  auto found = find_kernel(tuned);
  if (!found || found->first->device() != desc.device.kind) return {};
  if (!found->first->feasible(desc, found->second).ok) return {};
  if (!is_kept(*found->first, desc, found->second, forms).ok) return {};
  return Candidate{found->first, std::move(found->second), 0, {}};
}

std::string label(const TunedKernel& kernel) {
  return kernel.config.empty() ? kernel.name : fmt::format("{} [{}]", kernel.name, kernel.config);
}

std::optional<Choice> choose_measured(const GemmDesc& desc, std::span<const std::string> allowed,
                                      const TuningCache& measured, std::span<const std::string> forms) {
  const TunedPoints* points = measured.points(TuningProblem::of(desc));
  if (points == nullptr) return {};
  const auto ranked = rank_measured(*points, desc.m, [&](const TunedKernel& kernel) {
    return find_again(kernel, desc, allowed, forms).has_value();
  });
  if (ranked.empty()) return {};
  Candidate best = *find_again(*ranked.front().kernel, desc, allowed, forms);
  Choice choice;
  choice.backend = best.backend;
  choice.kernel = std::move(best.kernel);
  choice.reason = ranked.front().how;
  choice.seconds = ranked.front().seconds;
  if (ranked.size() > 1) {
    choice.runner_up = label(*ranked[1].kernel);
    choice.runner_up_seconds = ranked[1].seconds;
  }
  for (std::size_t i = 1; i < ranked.size(); ++i) {
    choice.others.push_back(fmt::format("{}: {:.3g} us, {:.2f} of the chosen one's speed",
                                        label(*ranked[i].kernel), 1e6 * ranked[i].seconds,
                                        choice.seconds / ranked[i].seconds));
  }
  for (const auto& [m, point] : *points) {
    for (const TunedKernel& kernel : point.kernels) {
      if (kernel.bad.empty()) continue;
      choice.others.push_back(
          fmt::format("{}: failed when it was tuned at M={}: {}", label(kernel), m, kernel.bad));
    }
  }
  return choice;
}

}  // namespace

std::optional<std::pair<const Backend*, KernelDesc>> find_kernel(const TunedKernel& tuned) {
  for (const Backend* backend : backends()) {
    if (backend->name() != tuned.backend || !backend->available().ok) continue;
    for (KernelDesc& kernel : backend->kernels()) {
      if (kernel.name != tuned.name) continue;
      kernel.config = tuned.config;
      kernel.sparse = tuned.sparse;
      kernel.two_roundings = tuned.two_roundings;
      kernel.reproducible = tuned.reproducible;
      return std::pair{backend, std::move(kernel)};
    }
  }
  return {};
}

Choice choose(const GemmDesc& desc, std::span<const std::string> allowed, const TuningCache* measured,
              std::span<const std::string> forms) {
  for (const std::string& name : allowed) backend_named(name);
  std::vector<Candidate> candidates;
  std::vector<std::string> refusals;
  for (const Backend* backend : backends()) {
    if (is_allowed(backend->name(), allowed)) {
      collect(*backend, desc, forms, candidates, refusals);
    } else if (!allowed.empty()) {
      refusals.push_back(fmt::format("{}: not among the backends asked for", backend->name()));
    }
  }
  if (candidates.empty() && allowed.empty())
    collect(backend_named("reference"), desc, forms, candidates, refusals);
  if (candidates.empty()) {
    fail(ErrorKind::kUnsupported, "nothing can multiply {}: {}", desc.to_string(), fmt::join(refusals, "; "));
  }
  if (measured != nullptr) {
    if (std::optional<Choice> choice = choose_measured(desc, allowed, *measured, forms)) {
      choice->others.insert(choice->others.end(), refusals.begin(), refusals.end());
      return *std::move(choice);
    }
  }
  auto best = std::min_element(candidates.begin(), candidates.end(),
                               [](const Candidate& a, const Candidate& b) { return a.rank < b.rank; });
  if (best->backend->name() == "cutlass" || best->backend->name() == "native") {
    // Their kernels are for few or for many tokens, and they order them by an estimate without asking
    // anybody.
    const std::vector<KernelDesc> likely = best->backend->candidates(desc);
    const auto first = std::find_if(candidates.begin(), candidates.end(), [&](const Candidate& candidate) {
      return !likely.empty() && candidate.backend == best->backend &&
             candidate.kernel.name == likely.front().name;
    });
    if (first != candidates.end()) {
      best = first;
      best->kernel = likely.front();
    }
  }
  Choice choice;
  choice.backend = best->backend;
  choice.kernel = best->kernel;
  choice.reason = best->reason;
  for (const Candidate& candidate : candidates) {
    if (&candidate != &*best)
      choice.others.push_back(fmt::format("{}: slower by rule", candidate.kernel.name));
  }
  choice.others.insert(choice.others.end(), refusals.begin(), refusals.end());
  return choice;
}

}  // namespace slidesparse
