#include "gemm/weight_forms.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>

#include "core/fail.h"
#include "core/text.h"

namespace slidesparse {
namespace {

constexpr std::array<std::pair<WeightPolicy, std::string_view>, 3> kPolicies{
    {{WeightPolicy::kSmallest, "smallest"},
     {WeightPolicy::kBalanced, "balanced"},
     {WeightPolicy::kFastest, "fastest"}}};

// One form, and how it does at each M.
struct Form {
  KeptForm kept;
  int possible = 0;     // M that some kernel runs from it
  int chosen = 0;       // M at which choose() would take it
  double slowdown = 0;  // sum over the M of log(time / best time)
  bool timed = true;    // at every M where it is possible
};

std::optional<Choice> try_choose(const GemmDesc& desc, std::span<const std::string> allowed,
                                 const TuningCache* measured, const std::string& form) {
  try {
    return choose(desc, allowed, measured, std::span(&form, 1));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUnsupported) throw;
    return {};
  }
}

class Forms {
 public:
  Forms(const GemmDesc& desc, std::span<const std::int64_t> ms, std::span<const std::string> allowed,
        const TuningCache* measured) {
    std::vector<double> best_seconds;
    best_seconds.reserve(ms.size());
    for (const std::int64_t m : ms) {
      GemmDesc here = desc;
      here.m = m;
      const Choice best = choose(here, allowed, measured);
      best_seconds.push_back(best.seconds);
      ++find(best.backend->weight_form(here, best.kernel)).chosen;
      add_others(here, allowed);
    }
    for (std::size_t i = 0; i < ms.size(); ++i) {
      GemmDesc here = desc;
      here.m = ms[i];
      for (Form& form : forms_) {
        const auto choice = try_choose(here, allowed, measured, form.kept.form);
        if (!choice) continue;
        ++form.possible;
        form.kept.bytes =
            std::max(form.kept.bytes, choice->backend->footprint(here, choice->kernel).weight_bytes);
        if (choice->seconds > 0 && best_seconds[i] > 0) {
          form.slowdown += std::log(choice->seconds / best_seconds[i]);
        } else {
          form.timed = false;
        }
      }
    }
    everywhere_ = static_cast<int>(ms.size());
  }

  // Those that can run every M, best first.
  template <typename Better>
  std::vector<KeptForm> best(const Better& better) const {
    const Form* found = nullptr;
    for (const Form& form : forms_) {
      if (form.possible == everywhere_ && (found == nullptr || better(form, *found))) found = &form;
    }
    if (found == nullptr) return {};
    return {found->kept};
  }

  std::vector<KeptForm> chosen() const {
    std::vector<Form> order;
    std::copy_if(forms_.begin(), forms_.end(), std::back_inserter(order),
                 [](const Form& form) { return form.chosen > 0; });
    std::stable_sort(order.begin(), order.end(),
                     [](const Form& a, const Form& b) { return a.chosen > b.chosen; });
    std::vector<KeptForm> kept;
    kept.reserve(order.size());
    for (const Form& form : order) kept.push_back(form.kept);
    return kept;
  }

 private:
  Form& find(const std::string& name) {
    for (Form& form : forms_) {
      if (form.kept.form == name) return form;
    }
    forms_.push_back({{name, 0}});
    return forms_.back();
  }

  void add_others(const GemmDesc& desc, std::span<const std::string> allowed) {
    for (const Backend* backend : backends()) {
      if (!is_allowed(backend->name(), allowed) || backend->device() != desc.device.kind ||
          !backend->available().ok) {
        continue;
      }
      for (const KernelDesc& kernel : backend->kernels()) {
        if (backend->feasible(desc, kernel).ok) find(backend->weight_form(desc, kernel));
      }
    }
  }

  std::vector<Form> forms_;
  int everywhere_ = 0;
};

bool is_faster(const Form& a, const Form& b) {
  if (a.timed && b.timed) return a.slowdown < b.slowdown;
  return a.chosen > b.chosen;
}

}  // namespace

std::string_view weight_policy_name(WeightPolicy policy) {
  for (const auto& [known, name] : kPolicies) {
    if (known == policy) return name;
  }
  return "?";
}

WeightPolicy parse_weight_policy(std::string_view text) {
  for (const auto& [policy, name] : kPolicies) {
    if (name == text) return policy;
  }
  fail(ErrorKind::kUsage, "--weights {}: possible are smallest, balanced, fastest", printable(text, 40));
}

std::vector<KeptForm> plan_weight_forms(const GemmDesc& desc, std::span<const std::int64_t> ms,
                                        WeightPolicy policy, std::span<const std::string> allowed,
                                        const TuningCache* measured) {
  require(!ms.empty(), "{}: forms of weights for no M", desc.to_string());
  const Forms forms(desc, ms, allowed, measured);
  std::vector<KeptForm> one;
  if (policy == WeightPolicy::kSmallest) {
    one = forms.best([](const Form& a, const Form& b) {
      return a.kept.bytes != b.kept.bytes ? a.kept.bytes < b.kept.bytes : is_faster(a, b);
    });
  } else if (policy == WeightPolicy::kBalanced) {
    one = forms.best(is_faster);
  }
  // No single form can run them all: what the fastest kernels read does.
  return one.empty() ? forms.chosen() : one;
}

std::int64_t bytes_of(std::span<const KeptForm> forms) {
  return std::accumulate(forms.begin(), forms.end(), std::int64_t{0},
                         [](std::int64_t sum, const KeptForm& form) { return sum + form.bytes; });
}

std::vector<std::string> names_of(std::span<const KeptForm> forms) {
  std::vector<std::string> names;
  names.reserve(forms.size());
  for (const KeptForm& form : forms) names.push_back(form.form);
  return names;
}

}  // namespace slidesparse
