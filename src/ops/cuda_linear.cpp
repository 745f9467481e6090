#include "ops/cuda_linear.h"

#include <algorithm>

#include "core/buffer.h"
#include "core/checked.h"
#include "core/cuda/check.h"
#include "core/fail.h"
#include "gemm/backends/cuda_weights.h"
#include "gemm/tuning_cache.h"

namespace slidesparse {
namespace {

// What the arena rounds each part up to.
constexpr std::int64_t kPart = 256;
// Plans are small, but ragged steps have any number of tokens: beyond this many the memory is emptied.
constexpr std::size_t kMaxPlans = 1024;

std::int64_t bytes_of_input(const GemmDesc& desc, const Footprint& footprint) {
  return round_up(footprint.m_padded * footprint.k_padded * static_cast<std::int64_t>(dtype_size(desc.x)),
                  kPart) +
         round_up(footprint.m_padded * 4, kPart);
}

// The order that all of them want; empty when they do not agree on one.
std::span<const std::int32_t> common_order(
    const std::map<std::string, std::unique_ptr<PreparedWeights>>& weights) {
  std::span<const std::int32_t> order;
  for (const auto& [form, prepared] : weights) {
    const std::span<const std::int32_t> own = prepared->input_order_on_host();
    if (own.empty() || (!order.empty() && !std::ranges::equal(own, order))) return {};
    order = own;
  }
  return order;
}

}  // namespace

CudaLinearKernels::CudaLinearKernels(const GemmDesc& desc, const CudaLinearOptions& options)
    : desc_(desc), options_(options) {
  require(!options.ms.empty(), "cuda linear {}: for which numbers of tokens?", desc.to_string());
  forms_ = plan_weight_forms(desc, options.ms, options.weights, options.choice.backends,
                             options.choice.measured.get());
  form_names_ = names_of(forms_);
}

std::shared_ptr<const CudaLinearKernels::Bound> CudaLinearKernels::at(std::int64_t m) const {
  const std::scoped_lock lock(mutex_);
  if (const auto found = bound_.find(m); found != bound_.end()) return found->second;
  GemmDesc desc = desc_;
  desc.m = m;
  auto made = std::make_shared<Bound>();
  made->choice = choose(desc, options_.choice.backends, options_.choice.measured.get(), form_names_);
  const Backend& backend = *made->choice.backend;
  made->plan = backend.plan(desc, made->choice.kernel);
  made->footprint = backend.footprint(desc, made->choice.kernel);
  made->form = backend.weight_form(desc, made->choice.kernel);
  if (bound_.size() >= kMaxPlans) bound_.clear();
  bound_.emplace(m, made);
  return made;
}

std::int64_t CudaLinearKernels::workspace_bytes(std::int64_t m) const {
  const auto bound = at(m);
  return bytes_of_input(desc_, bound->footprint) + round_up(bound->plan.workspace_bytes, kPart) + 4 * kPart;
}

std::int64_t CudaLinearKernels::input_bytes(std::int64_t m) const {
  return bytes_of_input(desc_, at(m)->footprint);
}

std::map<std::string, std::unique_ptr<PreparedWeights>> CudaLinearKernels::prepare(
    const WeightSource& source) const {
  std::map<std::string, std::unique_ptr<PreparedWeights>> weights;
  for (const std::int64_t m : options_.ms) {
    const auto bound = at(m);
    auto& form = weights[bound->form];
    if (!form) form = bound->choice.backend->prepare_weights(source, bound->plan.desc, bound->choice.kernel);
  }
  return weights;
}

CudaLinear::CudaLinear(std::string name, std::shared_ptr<const CudaLinearKernels> kernels,
                       const WeightSource& source)
    : name_(std::move(name)),
      kernels_(std::move(kernels)),
      weights_(kernels_->prepare(source)),
      input_order_(common_order(weights_)) {}

std::int64_t CudaLinear::allocated_bytes() const {
  std::int64_t bytes = 0;
  for (const auto& [form, weights] : weights_) bytes += weights->allocated_bytes();
  return bytes;
}

CudaLinear::Rows CudaLinear::dense_rows() const {
  for (const auto& [form, weights] : weights_) {
    if (form.rfind("dense ", 0) != 0) continue;
    if (const auto* dense = dynamic_cast<const CudaWeights*>(weights.get()); dense != nullptr)
      return {dense->values.data(), dense->ld};
  }
  return {};
}

void CudaLinear::run(const Context& context, const CudaLinearInput& input, std::int64_t m, void* out) const {
  if (m == 0) return;
  const auto bound = kernels_->at(m);
  const GemmDesc& desc = bound->plan.desc;
  const Footprint& footprint = bound->footprint;
  const auto weights = weights_.find(bound->form);
  require(weights != weights_.end(), "{}: M={} wants its weights as \"{}\", which were not kept", name_, m,
          bound->form);

  const Arena::Scope scope(*context.arena);
  const bool quantised = desc.x != DType::kBF16;
  // BF16 that nothing has to be done to is read where it is.
  const bool direct = !quantised && input.producer == cuda::Producer::kNone && footprint.lift == 0 &&
                      !footprint.gathered && footprint.k_padded == desc.k && input.ldx == desc.k &&
                      footprint.m_padded <= m;
  void* codes = nullptr;
  float* scales = nullptr;
  if (!direct) {
    const auto element = static_cast<std::int64_t>(dtype_size(desc.x));
    codes =
        context.arena->allocate(static_cast<std::size_t>(footprint.m_padded * footprint.k_padded * element));
    if (quantised) scales = context.arena->allocate<float>(footprint.m_padded);
    cuda::QuantizeArgs args;
    args.producer = input.producer;
    args.out = desc.x;
    args.m = m;
    args.k = desc.k;
    args.x = input.x;
    args.ldx = input.ldx;
    args.residual_out = input.residual_out;
    args.update = input.update;
    args.norm_weight = input.norm_weight;
    args.eps = input.eps;
    args.lift = footprint.lift;
    if (footprint.gathered && !input.ordered) args.perm = weights->second->input_order();
    args.q = codes;
    args.ldq = footprint.k_padded;
    args.scale = scales;
    args.m_padded = footprint.m_padded;
    cuda_check(cuda::quantize(args, context.stream), "quantize", name_);
  }
  bound->choice.backend->run(bound->plan, *weights->second, {direct ? input.x : codes, scales, out}, context);
}

}  // namespace slidesparse
