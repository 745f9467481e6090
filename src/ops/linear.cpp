#include "ops/linear.h"

#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "core/buffer.h"
#include "core/fail.h"
#include "core/parallel.h"
#include "gemm/tuning_cache.h"
#include "kernels/cpu/ops_rows.h"
#include "ops/checks.h"
#include "slidesparse/format/split.h"

namespace slidesparse {
namespace {

// Elements below which one thread quantises alone.
constexpr std::int64_t kSerialElements = 16384;
// Plans are small, but ragged batches have any number of tokens: beyond this many the memory is emptied.
constexpr std::size_t kMaxPlans = 1024;

}  // namespace

struct Linear::State {
  std::string name;
  WeightSource source;
  LinearOptions options;

  // A kernel bound to a number of tokens, and the weights in its form. Shared, so that a run may go on with a
  // plan that was forgotten.
  struct Bound {
    Choice choice;
    GemmPlan plan;
    std::shared_ptr<const PreparedWeights> weights;
  };
  using Key = std::tuple<std::int64_t, DType, std::int64_t, std::int64_t>;  // m, out, ldx, ldout
  std::mutex mutex;
  std::map<Key, std::shared_ptr<const Bound>> bound;
  std::map<std::string, std::shared_ptr<const PreparedWeights>> forms;

  GemmDesc describe(std::int64_t m, DType out, std::int64_t ldx, std::int64_t ldout) const {
    GemmDesc desc;
    desc.m = m;
    desc.n = source.n;
    desc.k = source.k;
    desc.x = source.dtype;
    desc.w = source.dtype;
    desc.out = out;
    desc.pattern = source.pattern;
    desc.layout = source.layout;
    desc.bias = source.bias != nullptr;
    desc.bias_dtype = source.bias_dtype;
    desc.ldx = ldx == source.k ? 0 : ldx;
    desc.ldout = ldout == source.n ? 0 : ldout;
    return desc;
  }

  // What would run, without preparing anything. Remembered: every step asks for its scratch.
  struct Look {
    Choice choice;
    Footprint footprint;
  };
  std::map<std::pair<std::int64_t, DType>, std::shared_ptr<const Look>> looks;

  std::shared_ptr<const Look> look(std::int64_t m, DType out) {
    const std::scoped_lock lock(mutex);
    const std::pair<std::int64_t, DType> key{m, out};
    if (const auto found = looks.find(key); found != looks.end()) return found->second;
    const GemmDesc desc = describe(m, out, source.k, source.n);
    auto made = std::make_shared<Look>();
    made->choice = choose(desc, options.backends, options.measured.get());
    made->footprint = made->choice.backend->footprint(desc, made->choice.kernel);
    if (looks.size() >= kMaxPlans) looks.clear();
    looks.emplace(key, made);
    return made;
  }

  std::shared_ptr<const Bound> bind(std::int64_t m, DType out, std::int64_t ldx, std::int64_t ldout) {
    const Key key{m, out, ldx, ldout};
    const std::scoped_lock lock(mutex);
    if (const auto found = bound.find(key); found != bound.end()) return found->second;
    const GemmDesc desc = describe(m, out, ldx, ldout);
    auto made = std::make_shared<Bound>();
    made->choice = choose(desc, options.backends, options.measured.get());
    const Backend& backend = *made->choice.backend;
    made->plan = backend.plan(desc, made->choice.kernel);
    std::shared_ptr<const PreparedWeights>& form = forms[backend.weight_form(desc, made->choice.kernel)];
    if (!form) form = backend.prepare_weights(source, desc, made->choice.kernel);
    made->weights = form;
    if (bound.size() >= kMaxPlans) bound.clear();
    bound.emplace(key, made);
    return made;
  }
};

Linear::Linear(std::string name, const WeightSource& source, LinearOptions options)
    : state_(std::make_unique<State>()) {
  require(source.n > 0 && source.k > 0 && source.values != nullptr, "linear {}: no weights ({} x {})", name,
          source.n, source.k);
  state_->name = std::move(name);
  state_->source = source;
  state_->options = std::move(options);
}

Linear::~Linear() = default;
Linear::Linear(Linear&&) noexcept = default;
Linear& Linear::operator=(Linear&&) noexcept = default;

const std::string& Linear::name() const {
  return state_->name;
}
std::int64_t Linear::n() const {
  return state_->source.n;
}
std::int64_t Linear::k() const {
  return state_->source.k;
}
DType Linear::dtype() const {
  return state_->source.dtype;
}
Pattern Linear::pattern() const {
  return state_->source.pattern;
}

std::string pattern_words(const WeightSource& source) {
  return source.pattern.to_string() + (source.layout == Layout::kSplit ? " split" : "");
}
std::string Linear::pattern_words() const {
  return slidesparse::pattern_words(state_->source);
}

std::int64_t stored_bytes(const WeightSource& source) {
  const auto value_size = static_cast<std::int64_t>(dtype_size(source.dtype));
  std::int64_t row = 0;
  std::int64_t shared = 0;
  if (source.layout == Layout::kSplit) {
    const SplitShape split = split_shape(source.pattern, source.k);
    row = split.values_per_row() * value_size + split.code_bytes_per_row();
    shared = source.k * static_cast<std::int64_t>(sizeof(std::int32_t));
  } else {
    row = source.pattern.values_per_row(source.k) * value_size + source.pattern.code_bytes_per_row(source.k);
  }
  if (source.scales != nullptr) row += static_cast<std::int64_t>(dtype_size(source.scale_dtype));
  if (source.bias != nullptr) row += static_cast<std::int64_t>(dtype_size(source.bias_dtype));
  return source.n * row + shared;
}

std::int64_t Linear::stored_bytes() const {
  return slidesparse::stored_bytes(state_->source);
}

std::int64_t Linear::workspace_bytes(std::int64_t m, DType out) const {
  return state_->look(m, out)->footprint.workspace_bytes + static_cast<std::int64_t>(Buffer::kAlignment);
}

Choice Linear::choice(std::int64_t m, DType out) const {
  return state_->look(m, out)->choice;
}

std::int64_t Linear::weight_bytes_read(std::int64_t m, DType out) const {
  return state_->look(m, out)->footprint.weight_bytes_read;
}

void Linear::run(const Context& context, const QuantisedInput& input, const TensorView& out) const {
  check_device("linear", context);
  check_matrix("linear", input.codes, dtype());
  require((out.dtype == DType::kBF16 || out.dtype == DType::kF32) && out.rank() == 2 &&
              out.dim(0) == input.codes.dim(0) && out.dim(1) == n() && input.codes.dim(1) == k() &&
              (out.dim(1) <= 1 || out.stride(1) == 1),
          "linear {} [{}, {}]: input {}, output {} {}", name(), n(), k(), input.codes.shape.to_string(),
          dtype_name(out.dtype), out.shape.to_string());
  require((input.scales == nullptr) == (dtype() == DType::kBF16), "linear {}: scales of the input", name());
  const std::int64_t m = out.dim(0);
  if (m == 0) return;
  const auto bound =
      state_->bind(m, out.dtype, m == 1 ? k() : input.codes.stride(0), m == 1 ? n() : out.stride(0));
  bound->choice.backend->run(bound->plan, *bound->weights, {input.codes.data, input.scales, out.data},
                             context);
}

QuantisedInput quantise_input(const Context& context, const TensorView& x, DType dtype) {
  check_device("quantise_input", context);
  check_matrix("quantise_input", x, DType::kBF16);
  if (dtype == DType::kBF16) return {x, nullptr};
  require(dtype == DType::kI8 || dtype == DType::kF8E4M3, "cannot quantise activations to {}",
          dtype_name(dtype));
  const std::int64_t m = x.dim(0);
  const std::int64_t k = x.dim(1);
  auto* codes = context.arena->allocate<std::uint8_t>(m * k);
  auto* scales = context.arena->allocate<float>(m);
  const kernels::RowKernels& rows = kernels::row_kernels();
  parallel_for(m, std::max<std::int64_t>(1, kSerialElements / k), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::uint16_t* row = x.as<std::uint16_t>() + t * x.stride(0);
      scales[t] = dtype == DType::kI8
                      ? rows.quantise_i8(row, k, reinterpret_cast<std::int8_t*>(codes + t * k))
                      : rows.quantise_f8(row, k, codes + t * k);
    }
  });
  return {TensorView::contiguous(codes, dtype, {m, k}), scales};
}

}  // namespace slidesparse
