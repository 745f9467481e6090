#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/text.h"
#include "io/compressed_tensors.h"
#include "io/json.h"
#include "io/packed_directory.h"
#include "model/presets.h"
#include "sweep/plan.h"

namespace slidesparse {
namespace {

constexpr const char* kDense = "dense";
constexpr std::int64_t kMostCells = 100'000;

class Expansion {
 public:
  Expansion(const SweepPlan& plan, const std::function<ModelForm(const std::string&)>& form_of)
      : plan_(plan), form_of_(form_of) {}

  std::vector<Cell> cells() {
    if (plan_.convert) add_conversions();
    if (plan_.tune) add_tunings();
    for (const std::string& model : plan_.models) add_model(model);
    if (cells_.empty()) fail_input("plan {}: it has no cell", printable(plan_.name));
    return std::move(cells_);
  }

 private:
  Cell cell(Phase phase, const std::string& model, const std::string& dtype, const std::string& backend,
            const std::string& pattern, const std::string& layout) const {
    Cell made;
    made.phase = phase;
    made.model = model;
    made.dtype = dtype;
    made.backend = backend;
    made.pattern = pattern;
    made.layout = pattern == kDense ? "slide" : layout;  // dense weights have one layout
    if (plan_.memory_limit > 0 && phase != Phase::kConvert && phase != Phase::kTune)
      made.memory_limit = plan_.memory_limit;
    return made;
  }

  void add(Cell cell) {
    if (++asked_ > kMostCells)
      fail_input("plan {}: more than {} cells: cut it into several plans, which may share a database",
                 printable(plan_.name), kMostCells);
    if (keys_.insert(cell_key(cell)).second) cells_.push_back(std::move(cell));
  }

  void add_conversions() {
    for (const std::string& model : plan_.models) {
      // What is packed already is no source.
      if (const ModelForm* own = form(model); own != nullptr && own->packed) continue;
      for (const std::string& dtype : plan_.dtypes) {
        for (const std::string& pattern : plan_.convert->patterns) {
          Cell made = cell(Phase::kConvert, model, dtype, "cpu", pattern, plan_.convert->layout);
          made.options.seed = plan_.seed;
          add(std::move(made));
        }
      }
    }
  }

  // Every M that something of the plan runs at.
  std::vector<std::int64_t> tuned_m() const {
    if (!plan_.tune->m.empty()) return plan_.tune->m;
    std::set<std::int64_t> all;
    if (plan_.gemm) all.insert(plan_.gemm->m.begin(), plan_.gemm->m.end());
    if (plan_.prefill) all.insert(plan_.prefill->m.begin(), plan_.prefill->m.end());
    if (plan_.decode) all.insert(plan_.decode->m.begin(), plan_.decode->m.end());
    return {all.begin(), all.end()};
  }

  // One for each pattern and layout, dense first: what is best there is known to those that follow.
  void add_tunings() {
    const std::vector<std::int64_t> m = tuned_m();
    for (const std::string& model : plan_.models) {
      for (const std::string& dtype : plan_.dtypes) {
        for (const bool dense : {true, false}) {
          for (const PlanRow& row : plan_.rows) {
            for (const std::string& pattern : row.patterns) {
              if ((pattern == kDense) != dense || !holds(model, dtype, pattern, row.layout)) continue;
              Cell made = cell(Phase::kTune, model, dtype, "", pattern, row.layout);
              made.backend = tuned_backend(pattern, made.layout);
              made.options.m = m;
              made.options.seed = plan_.seed;
              if (plan_.head != kBf16Word) made.options.head = plan_.head;
              add(std::move(made));
            }
          }
        }
      }
    }
  }

  // The one backend whose rows have that pattern and layout; `auto` for several.
  std::string tuned_backend(const std::string& pattern, const std::string& layout) const {
    std::set<std::string> named;
    for (const PlanRow& row : plan_.rows) {
      const bool same = pattern == kDense || row.layout == layout;
      if (same && std::ranges::count(row.patterns, pattern) > 0) named.insert(row.backend);
    }
    return named.size() == 1 ? *named.begin() : "auto";
  }

  const ModelForm* form(const std::string& model) {
    if (is_known_shape(model)) return nullptr;
    const auto found = forms_.find(model);
    return found != forms_.end() ? &found->second : &forms_.emplace(model, form_of_(model)).first->second;
  }

  bool holds(const std::string& model, const std::string& dtype, const std::string& pattern,
             const std::string& layout) {
    const ModelForm* own = form(model);
    return own == nullptr ||
           (own->dtype == dtype && own->pattern == pattern && (pattern == kDense || own->layout == layout));
  }

  void add_model(const std::string& model) {
    bool found = false;
    for (const std::string& dtype : plan_.dtypes) {
      for (const PlanRow& row : plan_.rows) {
        for (const std::string& pattern : row.patterns) {
          if (!holds(model, dtype, pattern, row.layout)) continue;
          found = true;
          add_row(model, dtype, row.backend, pattern, row.layout);
        }
      }
    }
    if (found || (!plan_.gemm && !plan_.prefill && !plan_.decode && !plan_.eval)) return;
    const ModelForm* own = form(model);
    fail_input("plan {}: {} holds {} {} ({}), which no dtype and row of the plan asks for",
               printable(plan_.name), printable(model), own->dtype, own->pattern, own->layout);
  }

  void add_row(const std::string& model, const std::string& dtype, const std::string& backend,
               const std::string& pattern, const std::string& layout) {
    const auto begin = [&](Phase phase) {
      Cell made = cell(phase, model, dtype, backend, pattern, layout);
      made.options.seed = plan_.seed;
      if (phase != Phase::kGemm) made.options.weights = plan_.weights;
      // What a directory stores needs no words; of random weights every cell says it.
      if (phase != Phase::kGemm && (is_known_shape(model) || plan_.head != kBf16Word))
        made.options.head = plan_.head;
      return made;
    };
    if (plan_.gemm && is_known_shape(model)) {
      for (const std::int64_t m : plan_.gemm->m) {
        Cell made = begin(Phase::kGemm);
        made.m = m;
        made.options.min_seconds = plan_.gemm->min_seconds;
        add(std::move(made));
      }
    }
    if (plan_.prefill) {
      for (const std::int64_t m : plan_.prefill->m) {
        Cell made = begin(Phase::kPrefill);
        made.m = m;
        made.options.runs = plan_.prefill->runs;
        made.options.min_seconds = plan_.prefill->min_seconds;
        made.options.kv_cache_dtype = plan_.kv_cache_dtype;
        add(std::move(made));
      }
    }
    if (plan_.decode) {
      for (const std::int64_t m : plan_.decode->m) {
        Cell made = begin(Phase::kDecode);
        made.m = m;
        made.options.runs = plan_.decode->runs;
        made.options.steps = plan_.decode->steps;
        made.options.prompt = plan_.decode->prompt;
        made.options.kv_cache_dtype = plan_.kv_cache_dtype;
        add(std::move(made));
      }
    }
    // Perplexity of random weights says nothing.
    if (plan_.eval && !is_known_shape(model)) {
      Cell made = begin(Phase::kEval);
      made.options.text = plan_.eval->text;
      made.options.max_windows = plan_.eval->max_windows;
      add(std::move(made));
    }
  }

  const SweepPlan& plan_;
  const std::function<ModelForm(const std::string&)>& form_of_;
  std::map<std::string, ModelForm> forms_;
  std::int64_t asked_ = 0;
  std::set<std::string> keys_;
  std::vector<Cell> cells_;
};

}  // namespace

bool is_known_shape(std::string_view model) {
  return preset_config(model).has_value();
}

ModelConfig shape_of_model(const std::string& model) {
  if (const auto known = preset_config(model)) return *known;
  const std::filesystem::path file = std::filesystem::path(model) / "config.json";
  return parse_model_config(read_text_file(file), file.string());
}

ModelForm directory_form(const std::string& directory) {
  const std::filesystem::path file = std::filesystem::path(directory) / "config.json";
  const std::string text = read_text_file(file);
  if (const auto packed = parse_packed_info(text, file.string())) {
    return {std::string(dtype_word(packed->dtype)), packed->pattern.to_string(),
            std::string(packed_layout_name(packed->layout)), true};
  }
  if (const auto quantised = parse_compressed_tensors(text, file.string()))
    return {std::string(dtype_word(quantised->dtype())), kDense, "slide", false};
  return {std::string(kBf16Word), kDense, "slide", false};
}

std::vector<Cell> plan_cells(const SweepPlan& plan,
                             const std::function<ModelForm(const std::string&)>& form_of) {
  return Expansion(plan, form_of).cells();
}

}  // namespace slidesparse
