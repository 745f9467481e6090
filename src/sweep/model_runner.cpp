#include "sweep/model_runner.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <set>
#include <thread>

#include "core/checked.h"
#include "core/cuda/nvml.h"
#include "core/fail.h"
#include "core/log.h"
#include "core/samples.h"
#include "core/text.h"
#include "core/version.h"
#include "engine/evaluate.h"
#include "engine/weight_plan.h"
#include "io/digest.h"
#include "io/text_file.h"
#include "io/tokenizer/tokenizer.h"
#include "model/card_model.h"
#include "model/placement.h"
#include "sweep/plan.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kEvalWindow = 2048;
constexpr auto kWatchEvery = std::chrono::milliseconds(50);

// What the card does while it lives: looked at by a thread of its own.
class CardWatch {
 public:
  explicit CardWatch(bool card) {
    if (!card) return;
    thread_ = std::thread([this] {
      while (!stop_.load()) {
        state_ = worse_of(state_, read_card_state());
        std::this_thread::sleep_for(kWatchEvery);
      }
    });
  }
  ~CardWatch() { end(); }
  CardWatch(const CardWatch&) = delete;
  CardWatch& operator=(const CardWatch&) = delete;

  CardState end() {
    stop_.store(true);
    if (thread_.joinable()) thread_.join();
    return state_;
  }

 private:
  std::atomic<bool> stop_{false};
  CardState state_;
  std::thread thread_;
};

// What a reference of random weights depends on: the numbers of this very build, too.
std::string reference_name(const Cell& cell, DType kv) {
  const std::string identity =
      fmt::format("{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}", cell.model, cell.dtype, cell.pattern, cell.layout,
                  cell.options.head, cell.options.seed.value_or(1), dtype_name(kv), kVersion, kCommit);
  return "greedy-" + sha256_hex(identity).substr(0, 16);
}

Layout layout_of(const Cell& cell) {
  return cell.layout == "split" ? Layout::kSplit : Layout::kPacked;
}

BenchModelOptions bench_options(const CellOrder& order) {
  const Cell& cell = order.cell;
  BenchModelOptions options;
  options.phase = cell.phase == Phase::kPrefill ? BenchPhase::kPrefill : BenchPhase::kDecode;
  options.m = {cell.m.value()};
  options.runs = static_cast<int>(cell.options.runs.value_or(options.runs));
  options.min_seconds = cell.options.min_seconds.value_or(0);
  options.prompt = cell.options.prompt.value_or(options.prompt);
  options.steps = cell.options.steps.value_or(options.steps);
  options.seed = static_cast<std::uint64_t>(cell.options.seed.value_or(1));
  const std::string& kv =
      order.changes.kv_cache_dtype.empty() ? cell.options.kv_cache_dtype : order.changes.kv_cache_dtype;
  if (!kv.empty()) options.kv_dtype = dtype_of(kv, "kv_cache_dtype");
  return options;
}

// "model.layers.3.mlp.gate_up" -> "gate_up".
std::string kind_of(const std::string& linear) {
  return linear.substr(linear.rfind('.') + 1);
}

void add_kernels(const BenchModelRow& row, CellResult& result) {
  std::map<std::string, std::set<std::string>> kernels;  // by kind: layers may differ
  for (const LinearKernel& linear : row.linears) kernels[kind_of(linear.name)].insert(linear.kernel);
  for (const auto& [kind, names] : kernels)
    result.attributes["kernel." + kind] = fmt::format("{}", fmt::join(names, "; "));
}

void add_card(const CardState& card, CellResult& result) {
  if (!card.known) return;
  result.measure("sm_clock", "MHz", card.sm_clock_mhz);
  result.measure("power", "W", card.power_watts);
  result.measure("temperature", "C", card.temperature_celsius);
  std::vector<std::string> conditions;
  if (card.power_capped) conditions.emplace_back("at its power limit");
  if (card.throttled) conditions.emplace_back("throttled by heat or the board");
  if (card.other_processes > 0)
    conditions.push_back(fmt::format("{} other processes on the card", card.other_processes));
  if (!conditions.empty()) result.attributes["conditions"] = fmt::format("{}", fmt::join(conditions, ", "));
}

void add_row(const BenchModelRow& row, const MachineLimits& limits, CellResult& result) {
  const auto m = static_cast<double>(row.m);
  const Spread& spread = row.seconds;
  Measurement rate{"tokens_per_second", "tokens/s", row.tokens_per_second, {}, {}, spread.count};
  if (spread.low > 0) {
    rate.low = m / spread.high;
    rate.high = m / spread.low;
  }
  result.measurements.push_back(rate);
  result.measurements.push_back({"seconds", "s", spread.median, spread.low, spread.high, spread.count});
  result.measure("step_tokens", "tokens", static_cast<double>(row.step_tokens));
  result.measure("sequences", "1", static_cast<double>(row.sequences));
  result.measure("weight_bytes", "B", static_cast<double>(row.weight_bytes));
  result.measure("sparse_share", "1", row.sparse_share);
  result.measure("share_of_limit", "1", share_of_limit(row, limits));
  if (!row.note.empty()) result.attributes["note"] = row.note;
  if (!row.attention.empty()) result.attributes["attention"] = row.attention;
  add_kernels(row, result);
}

// Prefill in so many steps of whole prompts at least.
void cut(BenchFit& fit, std::int64_t chunks, const BenchModelOptions& bench) {
  const std::int64_t prompt = bench_prompt(bench.phase, fit.m, bench);
  const std::int64_t prompts = std::max<std::int64_t>(1, ceil_div(fit.m, prompt) / chunks);
  fit.step_tokens = std::min(fit.step_tokens, prompts * prompt);
}

void check_form(const Cell& cell, const Model& model) {
  const ModelSummary summary = model.summary();
  const std::string pattern =
      cell.layout == "split" && cell.pattern != "dense" ? cell.pattern + " split" : cell.pattern;
  if (summary.dtype != cell.dtype || summary.pattern != pattern)
    fail_input("{} holds {} {}, the cell asks for {} {}", printable(cell.model), summary.dtype,
               summary.pattern, cell.dtype, pattern);
}

}  // namespace

std::vector<std::string> backends_of(const Cell& cell) {
  return cell.backend == "auto" ? std::vector<std::string>{} : std::vector<std::string>{cell.backend};
}

void ModelRunner::prepare(const CellOrder& order) {
  if (options_) return;
  const Cell& cell = order.cell;
  Placement placement;
  placement.device = setup_.device;
  placement.backends = backends_of(cell);
  if (std::filesystem::exists(setup_.cache)) placement.cache = setup_.cache;
  placement.weights = order.changes.weights.empty() ? cell.options.weights : order.changes.weights;
  placement.memory_limit = cell.memory_limit.value_or(0);
  placement.head = cell.options.head;
  options_ = model_options(placement, setup_.m);
  if (placement.cache.empty() || order.changes.by_rule) options_->linear.measured.reset();
  if (options_->device == DeviceKind::kCuda) budget_ = card_budget();
  config_ = shape_of_model(cell.model);
}

PlannedModel ModelRunner::plan(const Cell& cell, const ModelOptions& options,
                               const BenchModelOptions& bench) {
  if (options.device != DeviceKind::kCuda) return {cell.model, {}, options, {}, {}};
  if (!shapes_) {
    shapes_ = is_known_shape(cell.model)
                  ? random_weights(config_, dtype_of(cell.dtype, "cell"), Pattern::parse(cell.pattern),
                                   dtype_of(cell.options.head, "head"), bench.seed, layout_of(cell))
                  : open_weights(cell.model, config_, false);
  }
  return plan_bench_model(cell.model, config_, *shapes_, options, bench, budget_);
}

Model ModelRunner::make(const Cell& cell, const ModelOptions& options) const {
  if (!is_known_shape(cell.model)) return Model::load(cell.model, options);
  return Model::random(config_, dtype_of(cell.dtype, "cell"), Pattern::parse(cell.pattern),
                       dtype_of(cell.options.head, "head"),
                       static_cast<std::uint64_t>(cell.options.seed.value_or(1)), options, layout_of(cell),
                       layers_for_speed(options_->device));
}

std::shared_ptr<const GreedyReference> ModelRunner::reference(const Cell& cell, const ModelOptions& options,
                                                              DType kv) {
  std::shared_ptr<const GreedyReference>& reference = references_[kv];
  if (reference) return reference;
  const auto seed = static_cast<std::uint64_t>(cell.options.seed.value_or(1));
  // On the CPU random weights are not made twice: the model is its own reference, in other steps.
  const bool own = options.device == DeviceKind::kCpu && is_known_shape(cell.model);
  if (own) load(cell, options);
  // Rows of other backends have the same one. A directory's weights may change, and are there at once.
  std::filesystem::path file;
  if (!own && is_known_shape(cell.model)) {
    file = std::filesystem::path(setup_.work) / reference_name(cell, kv);
    if (auto known = GreedyReference::load(file))
      return reference = std::make_shared<const GreedyReference>(std::move(*known));
  }
  loading_(true);
  reference = own ? std::make_shared<const GreedyReference>(*model_, seed, kv)
                  : std::make_shared<const GreedyReference>(make(cell, reference_options(options)), seed, kv);
  if (!file.empty()) {
    try {
      std::filesystem::create_directories(setup_.work);
      reference->save(file);
    } catch (const std::exception& error) {  // then the next row makes its own
      spdlog::warn("a reference of greedy outputs is not kept: {}", error.what());
    }
  }
  loading_(false);
  return reference;
}

const Model& ModelRunner::load(const Cell& cell, const ModelOptions& options) {
  if (model_ && loaded_ == options.weights && validated_ == options.validate) return *model_;
  loading_(true);
  model_.reset();  // there may be no room for both
  const double start = now_seconds();
  model_.emplace(make(cell, options));
  load_seconds_ = now_seconds() - start;
  loaded_ = options.weights;
  validated_ = options.validate;
  loading_(false);
  check_form(cell, *model_);
  return *model_;
}

void ModelRunner::bench(const CellOrder& order, CellResult& result) {
  const Cell& cell = order.cell;
  prepare(order);
  BenchModelOptions bench = bench_options(order);
  bench.spoil_check = order.inject == "wrong_result";
  const std::int64_t m = cell.m.value();
  const PlannedModel planned = plan(cell, *options_, bench);
  const bool card = options_->device == DeviceKind::kCuda;
  BenchFit fit{m, m, {}};
  if (card) fit = fit_bench(planned.demand, budget_, bench, m);
  if (order.changes.chunks && bench.phase == BenchPhase::kPrefill) cut(fit, *order.changes.chunks, bench);
  result.outcome = Class::kOk;
  if (fit.m < m) {
    result.fail(Error(ErrorKind::kUnsupported, fit.note,
                      memory_facts(bench_demand(planned.demand, bench, m), budget_)));
    result.largest_m = fit.m;
    if (!order.smaller) return;
  }
  const auto reference = this->reference(cell, planned.options, bench.kv_dtype);
  const Model& model = load(cell, planned.options);
  CardWatch watch(card);
  const BenchSubject subject{cell.model, &model, [&](std::int64_t) { return fit; }, reference};
  const BenchModelRow row = bench_model({&subject, 1}, bench).front();
  add_card(watch.end(), result);
  const bool right = row.has_figures();
  result.checks.push_back(
      {"greedy", right,
       right ? fmt::format("{} outputs, {} other tokens than the reference's, at most {:.2f} "
                           "deviations apart",
                           row.greedy.compared, row.greedy.differing, row.greedy.worst_gap)
             : row.check});
  if (!right) {
    result.outcome = Class::kWrongResult;
    result.message = row.check;
    return;
  }
  add_row(row, setup_.limits, result);
  if (card) {
    const std::int64_t at_once = bench.phase == BenchPhase::kPrefill ? fit.step_tokens : fit.m;
    result.measure("peak_bytes", "B",
                   static_cast<double>(bytes_of(plan_memory(bench_demand(planned.demand, bench, at_once)))));
  }
  result.measure("load_seconds", "s", load_seconds_);
  result.attributes["weights"] = weight_policy_name(planned.options.weights);
  const std::int64_t sequences =
      bench.phase == BenchPhase::kPrefill ? ceil_div(fit.m, bench_prompt(bench.phase, fit.m, bench)) : fit.m;
  const bool equal = row.sequences == sequences && row.m == fit.m;
  result.checks.push_back(
      {"sequences", equal,
       equal ? fmt::format("{} in every step, each drew a token", row.sequences)
             : fmt::format("{} of {} tokens instead of {} of {}", row.sequences, row.m, sequences, fit.m)});
  if (equal) return;
  result.outcome = Class::kWrongResult;
  result.message = result.checks.back().message;
}

void ModelRunner::evaluate(const CellOrder& order, CellResult& result) {
  const Cell& cell = order.cell;
  prepare(order);
  const Tokenizer tokenizer = Tokenizer::from_file(std::filesystem::path(cell.model) / "tokenizer.json");
  const std::vector<std::int32_t> tokens = tokenizer.encode(read_text_lines(cell.options.text));
  ModelOptions options = *options_;
  options.validate = true;
  PerplexityOptions perplexity;
  perplexity.window = std::min(kEvalWindow, config_.max_position);
  perplexity.max_windows = cell.options.max_windows.value_or(0);
  if (options.device == DeviceKind::kCuda) {
    const EvalSizes sizes = perplexity_sizes(config_, static_cast<std::int64_t>(tokens.size()), perplexity);
    const auto reader = open_weights(cell.model, config_, false);
    plan_evaluation(cell.model, config_, *reader, options, {&sizes, 1}, budget_);
  }
  const Model& model = load(cell, options);
  const PerplexityResult found = evaluate_perplexity(model, tokens, perplexity);
  Measurement figure{"perplexity", "1", found.perplexity, {}, {}, found.windows};
  if (found.windows > 1) {
    figure.low = found.perplexity - found.perplexity_error;
    figure.high = found.perplexity + found.perplexity_error;
  }
  result.measurements.push_back(figure);
  result.measure("tokens", "1", static_cast<double>(found.windows * found.window));
  result.measure("seconds", "s", found.seconds);
  result.attributes["note"] =
      fmt::format("windows of {} tokens without overlap; low and high: one standard error", found.window);
  result.outcome = Class::kOk;
}

}  // namespace slidesparse
