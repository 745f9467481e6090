#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "core/fail.h"
#include "core/interrupt.h"
#include "gemm/bench.h"
#include "gemm/tuner.h"

namespace slidesparse {
namespace {

constexpr int kRounds = 15;
// With rests between windows, fewer: each costs 60 ms.
constexpr int kRestedRounds = 7;

std::vector<Pattern> with_dense(const std::vector<Pattern>& patterns) {
  std::vector<Pattern> all{Pattern()};
  for (const Pattern& pattern : patterns) {
    if (!pattern.is_dense()) all.push_back(pattern);
  }
  return all;
}

bool has_dense(const std::vector<Pattern>& patterns) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [](const Pattern& pattern) { return pattern.is_dense(); });
}

std::string key_of(const Choice& choice) {
  return fmt::format("{} {} {}", choice.kernel.backend, choice.kernel.name, choice.kernel.config);
}

class ChosenBench {
 public:
  explicit ChosenBench(const GemmBenchOptions& options)
      : options_(options), cache_(tuning_machine(options.device)) {
    if (options.cache != nullptr) cache_.merge(*options.cache);
  }

  GemmBenchResult run() {
    result_.limits = measure_limits(options_.device);
    warn_if_busy();
    for (const GemmShape& shape : options_.shapes) {
      for (const DType dtype : options_.dtypes) run_shape(shape, dtype);
    }
    add_sums(result_.rows);
    for (const GemmBenchRow& row : result_.rows) {
      if (!row.card.throttled) continue;
      result_.warnings.push_back(fmt::format(
          "the card was slowed down by heat or by its board while {} M={} ran ({} MHz, {} W, {} C)",
          row.shape, row.m, row.card.sm_clock_mhz, row.card.power_watts, row.card.temperature_celsius));
      break;
    }
    return std::move(result_);
  }

 private:
  void warn_if_busy() {
    if (options_.device != DeviceKind::kCuda) return;
    if (const CardState state = read_card_state(); state.other_processes > 0) {
      result_.warnings.push_back(fmt::format(
          "{} other processes compute on this card: figures are not the card's", state.other_processes));
    }
  }

  void run_shape(const GemmShape& shape, DType dtype) {
    const TrackShape track_shape{shape.n, shape.k, dtype, shape.bias, shape.stored, shape.layout};
    tune_missing(track_shape, shape.name);
    keep_weights(track_shape, shape.name);
    const auto track = make_race_track(track_shape, options_.device, options_.seed, options_.part);
    for (const std::int64_t m : options_.ms) {
      if (options_.on_progress)
        options_.on_progress(fmt::format("{} {} M={}", shape.name, dtype_name(dtype), m));
      run_point(*track, track_shape, shape.name, m);
    }
  }

  // What choose() needs to know.
  void tune_missing(const TrackShape& shape, const std::string& name) {
    TunerOptions options;
    options.shapes = {shape};
    options.patterns = with_dense(options_.patterns);
    options.ms = options_.ms;
    if (!options_.every_kernel) options.backends = options_.backends;
    options.device = options_.device;
    options.seed = options_.seed;
    options.probe = options_.probe;
    if (options_.on_progress) {
      options.on_progress = [&](const std::string& what, double) {
        options_.on_progress(fmt::format("{}: tuning {}", name, what));
      };
    }
    tune(options, cache_, "");
  }

  // The backends whose best kernel is to be shown; one empty list: whatever choose() takes.
  std::vector<std::vector<std::string>> lists() const {
    std::vector<std::vector<std::string>> all;
    if (options_.every_kernel) {
      for (const Backend* backend : backends()) {
        if (backend->device() == options_.device && backend->name() != "reference")
          all.push_back({std::string(backend->name())});
      }
    } else if (options_.backends.empty()) {
      all.emplace_back();
    } else {
      for (const std::string& name : options_.backends) all.push_back({name});
    }
    return all;
  }

  void keep_weights(const TrackShape& shape, const std::string& name) {
    forms_.clear();
    for (const Pattern& pattern : with_dense(options_.patterns)) {
      const GemmDesc desc = track_desc(shape, pattern, options_.ms.front(), {options_.device, 0});
      for (const std::vector<std::string>& allowed : lists()) {
        try {
          const auto forms = plan_weight_forms(desc, options_.ms, options_.weights, allowed, &cache_);
          forms_[{pattern.to_string(), allowed}] = names_of(forms);
          result_.weights.push_back(
              {name, shape.dtype, pattern, allowed.empty() ? std::string() : allowed.front(), forms});
        } catch (const Error& error) {
          if (error.kind() != ErrorKind::kUnsupported) throw;  // run_point() says why
        }
      }
    }
  }

  void run_point(RaceTrack& track, const TrackShape& shape, const std::string& name, std::int64_t m) {
    std::vector<RaceEntrant> entrants;
    std::vector<Choice> choices;
    std::vector<bool> chosen;
    for (const Pattern& pattern : with_dense(options_.patterns)) {
      const GemmDesc desc = track_desc(shape, pattern, m, {options_.device, 0});
      std::size_t found = 0;
      std::string reasons;
      for (const std::vector<std::string>& allowed : lists()) {
        try {
          Choice choice = choose(desc, allowed, &cache_, forms_[{pattern.to_string(), allowed}]);
          entrants.push_back({desc, choice.backend, choice.kernel});
          choices.push_back(std::move(choice));
          chosen.push_back(false);
          ++found;
        } catch (const Error& error) {
          if (error.kind() != ErrorKind::kUnsupported) throw;
          reasons = error.what();
        }
      }
      // Dense rows that nobody asked for are there for comparison alone: without them there are no ratios.
      const bool asked = !pattern.is_dense() || has_dense(options_.patterns);
      if (found == 0 && asked) fail(ErrorKind::kUnsupported, "{}", reasons);
      if (found < 2) continue;
      const std::string taken = key_of(choose(desc, {}, &cache_));
      for (std::size_t i = choices.size() - found; i < choices.size(); ++i)
        chosen[i] = key_of(choices[i]) == taken;
    }
    RaceRules rules;
    rules.screening = 0;
    rules.rounds = options_.rest_seconds > 0 ? kRestedRounds : kRounds;
    rules.rest_seconds = options_.rest_seconds;
    rules.window_seconds =
        options_.rest_seconds > 0 ? kBurstWindowSeconds : std::max(1e-4, options_.min_seconds / rules.rounds);
    CardState state;
    rules.between = [&] {
      check_interrupt("the rows measured so far are lost; run the command again");
      if (options_.device == DeviceKind::kCuda) state = worse_of(state, read_card_state());
    };
    const std::vector<RaceRow> raced = race(track, std::move(entrants), rules);
    rules.between();
    double dense = 0;
    for (const RaceRow& row : raced) {
      const double median = row.seconds.median;
      if (row.entrant.desc.pattern.is_dense() && median > 0 && (dense == 0 || median < dense)) dense = median;
    }
    for (std::size_t i = 0; i < raced.size(); ++i) {
      result_.rows.push_back(make_row(raced[i], choices[i], shape, name, dense, state));
      result_.rows.back().chosen = chosen[i];
    }
  }

  GemmBenchRow make_row(const RaceRow& raced, const Choice& choice, const TrackShape& shape,
                        const std::string& name, double dense, const CardState& state) const {
    const GemmDesc& desc = raced.entrant.desc;
    GemmBenchRow row;
    row.shape = name;
    row.n = desc.n;
    row.k = desc.k;
    row.m = desc.m;
    row.dtype = desc.w;
    row.pattern = desc.pattern;
    row.layout = desc.layout;
    row.own_weights = has_stored(shape, desc.pattern);
    row.backend = raced.entrant.backend->name();
    row.kernel = raced.entrant.kernel.name;
    if (!raced.entrant.kernel.config.empty()) row.kernel += fmt::format(" [{}]", raced.entrant.kernel.config);
    row.check = raced.check;
    row.seconds = raced.seconds;
    row.weight_bytes = raced.entrant.backend->footprint(desc, raced.entrant.kernel).weight_bytes_read;
    row.sparse_share = raced.entrant.kernel.sparse ? 1 : 0;
    row.two_roundings = raced.entrant.kernel.two_roundings;
    row.mode = options_.device == DeviceKind::kCpu ? "cpu"
               : options_.rest_seconds > 0         ? "burst"
                                                   : "sustained";
    if (options_.device == DeviceKind::kCuda && options_.part == TimedPart::kProduct)
      row.mode += ", product only";
    row.reason = choice.reason;
    row.runner_up = choice.runner_up;
    row.runner_up_seconds = choice.runner_up_seconds;
    row.others = choice.others;
    row.card = state;
    if (const double median = row.seconds.median; median > 0) {
      const double ops =
          2.0 * static_cast<double>(desc.m) * static_cast<double>(desc.n) * static_cast<double>(desc.k);
      const double peak = result_.limits.ops_per_second(desc.w);
      // What the layer has to move: weights, BF16 activations in and BF16 outputs.
      const double bytes = static_cast<double>(row.weight_bytes) +
                           2.0 * static_cast<double>(desc.m) * static_cast<double>(desc.k + desc.n);
      row.ops_per_second = ops / median;
      row.bytes_per_second = static_cast<double>(row.weight_bytes) / median;
      row.share_of_limit =
          std::max(bytes / result_.limits.read_bytes_per_second, peak > 0 ? ops / peak : 0) / median;
      row.dense_ratio = dense / median;
    }
    return row;
  }

  const GemmBenchOptions& options_;
  TuningCache cache_;
  GemmBenchResult result_;
  // Of the shape at hand, by pattern and list of backends.
  std::map<std::pair<std::string, std::vector<std::string>>, std::vector<std::string>> forms_;
};

// Everything but the shape that rows of one sum share.
using SumKey = std::tuple<std::int64_t, DType, int, std::string>;  // m, dtype, group, backend

// Adds `row` to a sum whose figures are totals until finish() is called.
void add_row(GemmBenchRow& sum, const GemmBenchRow& row) {
  const double ops = row.ops_per_second * row.seconds.median;
  const double total = sum.ops_per_second + ops;
  sum.sparse_share = total > 0 ? (sum.sparse_share * sum.ops_per_second + row.sparse_share * ops) / total : 0;
  sum.ops_per_second = total;
  sum.seconds.median += row.seconds.median;
  sum.seconds.low += row.seconds.low;
  sum.seconds.high += row.seconds.high;
  sum.seconds.count = std::min(sum.seconds.count, row.seconds.count);
  sum.weight_bytes += row.weight_bytes;
  sum.share_of_limit += row.share_of_limit * row.seconds.median;  // seconds at the limit
  sum.two_roundings = sum.two_roundings || row.two_roundings;
  sum.card = worse_of(sum.card, row.card);
}

}  // namespace

void add_sums(std::vector<GemmBenchRow>& rows) {
  std::set<std::string> shapes;
  for (const GemmBenchRow& row : rows) shapes.insert(row.shape);
  if (shapes.size() < 2) return;
  // Fastest row of each shape for each sum it belongs to: its backend's and, where there are several, "best".
  std::map<SumKey, std::map<std::string, const GemmBenchRow*>> sums;
  std::map<std::tuple<std::int64_t, DType, int>, std::set<std::string>> names;
  for (const GemmBenchRow& row : rows) names[{row.m, row.dtype, row.pattern.group()}].insert(row.backend);
  for (const GemmBenchRow& row : rows) {
    if (row.check != "ok") continue;
    std::vector<std::string> into{row.backend};
    if (names[{row.m, row.dtype, row.pattern.group()}].size() > 1) into.emplace_back("best");
    for (const std::string& backend : into) {
      const GemmBenchRow*& best = sums[{row.m, row.dtype, row.pattern.group(), backend}][row.shape];
      if (best == nullptr || row.seconds.median < best->seconds.median) best = &row;
    }
  }
  std::vector<GemmBenchRow> made;
  std::map<std::pair<std::int64_t, DType>, double> dense;
  for (const auto& [key, parts] : sums) {
    if (parts.size() != shapes.size()) continue;  // a layer that this backend cannot run, or failed at
    const GemmBenchRow& first = *parts.begin()->second;
    GemmBenchRow sum;
    const std::string& name = first.shape;
    sum.shape = name.substr(0, name.rfind('/') == std::string::npos ? 0 : name.rfind('/') + 1) + "sum";
    sum.m = first.m;
    sum.dtype = first.dtype;
    sum.pattern = first.pattern;
    sum.layout = first.layout;
    sum.backend = std::get<3>(key);
    sum.kernel = fmt::format("{} layers", parts.size());
    sum.check = "ok";
    sum.mode = first.mode;
    sum.seconds.count = first.seconds.count;
    for (const auto& [shape, row] : parts) add_row(sum, *row);
    const double median = sum.seconds.median;
    sum.ops_per_second /= median;
    sum.bytes_per_second = static_cast<double>(sum.weight_bytes) / median;
    sum.share_of_limit /= median;
    double& best_dense = dense[{sum.m, sum.dtype}];
    if (sum.pattern.is_dense() && (best_dense == 0 || median < best_dense)) best_dense = median;
    made.push_back(std::move(sum));
  }
  for (GemmBenchRow& sum : made) sum.dense_ratio = dense[{sum.m, sum.dtype}] / sum.seconds.median;
  rows.insert(rows.end(), made.begin(), made.end());
}

GemmBenchResult bench_gemm_chosen(const GemmBenchOptions& options) {
  return ChosenBench(options).run();
}

}  // namespace slidesparse
