#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gemm/backend.h"

namespace slidesparse {

// Kernels want weights in different forms (Backend::weight_form): the stored rows, dense rows, a library's
// compressed ones. Which of them stay in memory:
enum class WeightPolicy {
  kSmallest,  // one form: the one of the fewest bytes that can run every M
  kBalanced,  // one form: the fastest one, by the geometric mean over the M of its time over the best time
  kFastest,   // every form that the fastest kernel of some M reads
};
std::string_view weight_policy_name(WeightPolicy policy);
// Throws kUsage with the list for other words.
WeightPolicy parse_weight_policy(std::string_view text);

struct KeptForm {
  std::string form;
  std::int64_t bytes = 0;  // that the layer's weights take in it, scales and bias included
};

// The forms to keep of the weights of a layer that runs at these M (at least one; `desc` says the rest of the
// problem), most used first. Pure, as choose() is, and with its arguments. Where a policy compares times and
// some are not measured, choose()'s order counts: the form that it takes at most of the M. Throws
// kUnsupported where nothing can run the layer.
std::vector<KeptForm> plan_weight_forms(const GemmDesc& desc, std::span<const std::int64_t> ms,
                                        WeightPolicy policy, std::span<const std::string> allowed = {},
                                        const TuningCache* measured = nullptr);
std::int64_t bytes_of(std::span<const KeptForm> forms);
std::vector<std::string> names_of(std::span<const KeptForm> forms);

}  // namespace slidesparse
