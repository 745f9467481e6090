#include <algorithm>

#include "core/cpu.h"
#include "core/fail.h"
#include "gemm/backend.h"
#include "gemm/backends/cpu_kernels.h"

// The rules, fastest first. They were measured (docs/measurements.md); nothing here depends on data or on the
// clock.
//   1. cpu stream   M <= 6: rows are read once from memory and expanded in registers.
//   2. cpu onednn   dense weights on a machine with AMX, which our own kernels do not use.
//   3. cpu panel    any M.
//   4. cpu onednn   dense weights elsewhere: it needs a copy of the weights and is no faster than the panel.
//   5. reference    only when named, or when nothing else can.
namespace slidesparse {
namespace {

struct Candidate {
  const Backend* backend = nullptr;
  KernelDesc kernel;
  int rank = 0;
  std::string reason;
};

bool is_allowed(std::string_view name, std::span<const std::string> allowed) {
  if (allowed.empty()) return name != "reference";
  return std::find(allowed.begin(), allowed.end(), name) != allowed.end();
}

Candidate judge(const Backend& backend, const KernelDesc& kernel) {
  if (backend.name() != "cpu") return {&backend, kernel, 5, "the only one that can"};
  switch (cpu_kernel(kernel).method) {
    case CpuMethod::kStream:
      return {&backend, kernel, 1, "few tokens: rows are expanded in registers as they stream in"};
    case CpuMethod::kOneDnn:
      if (has_amx()) return {&backend, kernel, 2, "dense weights and AMX"};
      return {&backend, kernel, 4, "dense weights"};
    default:
      return {&backend, kernel, 3, "many tokens: a panel of rows is expanded once for all of them"};
  }
}

// Adds what `backend` can run to `candidates` and one line for each distinct reason why not to `refusals`.
void collect(const Backend& backend, const GemmDesc& desc, std::vector<Candidate>& candidates,
             std::vector<std::string>& refusals) {
  if (const Feasibility here = backend.available(); !here.ok) {
    refusals.push_back(fmt::format("{}: {}", backend.name(), here.reason));
    return;
  }
  for (const KernelDesc& kernel : backend.kernels()) {
    const Feasibility answer = backend.feasible(desc, kernel);
    if (answer.ok) {
      candidates.push_back(judge(backend, kernel));
      continue;
    }
    std::string line = fmt::format("{}: {}", backend.name(), answer.reason);
    if (std::find(refusals.begin(), refusals.end(), line) == refusals.end())
      refusals.push_back(std::move(line));
  }
}

}  // namespace

Choice choose(const GemmDesc& desc, std::span<const std::string> allowed) {
  for (const std::string& name : allowed) backend_named(name);
  std::vector<Candidate> candidates;
  std::vector<std::string> refusals;
  for (const Backend* backend : backends()) {
    if (is_allowed(backend->name(), allowed)) {
      collect(*backend, desc, candidates, refusals);
    } else if (!allowed.empty()) {
      refusals.push_back(fmt::format("{}: not among the backends asked for", backend->name()));
    }
  }
  if (candidates.empty() && allowed.empty()) collect(backend_named("reference"), desc, candidates, refusals);
  if (candidates.empty()) {
    fail(ErrorKind::kUnsupported, "nothing can multiply {}: {}", desc.to_string(), fmt::join(refusals, "; "));
  }
  const auto best = std::min_element(candidates.begin(), candidates.end(),
                                     [](const Candidate& a, const Candidate& b) { return a.rank < b.rank; });
  Choice choice{best->backend, best->kernel, best->reason, {}};
  for (const Candidate& candidate : candidates) {
    if (&candidate != &*best)
      choice.others.push_back(fmt::format("{}: slower by rule", candidate.kernel.name));
  }
  choice.others.insert(choice.others.end(), refusals.begin(), refusals.end());
  return choice;
}

}  // namespace slidesparse
