#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "sweep/cell.h"

// The file that says what a sweep measures (docs/sweep.md, "Plan").
namespace slidesparse {

// One backend with the patterns that it runs.
struct PlanRow {
  std::string backend;
  std::vector<std::string> patterns;
  std::string layout = "slide";
  bool operator==(const PlanRow&) const = default;
};

struct ConvertPhase {
  std::vector<std::string> patterns;
  std::string layout = "slide";
  bool operator==(const ConvertPhase&) const = default;
};
struct TunePhase {
  std::vector<std::int64_t> m;  // empty: every M of gemm, prefill and decode
  bool operator==(const TunePhase&) const = default;
};
struct GemmPhase {
  std::vector<std::int64_t> m;
  double min_seconds = 0.5;  // of each linear
  bool operator==(const GemmPhase&) const = default;
};
struct PrefillPhase {
  std::vector<std::int64_t> m;  // tokens
  std::int64_t runs = 3;
  double min_seconds = 1;  // of timed runs, in more of them if need be
  bool operator==(const PrefillPhase&) const = default;
};
struct DecodePhase {
  std::vector<std::int64_t> m;  // sequences
  std::int64_t runs = 3;
  std::int64_t steps = 256;  // of a run
  std::int64_t prompt = 16;  // tokens of each prompt
  bool operator==(const DecodePhase&) const = default;
};
struct EvalPhase {
  std::string text;              // file
  std::int64_t max_windows = 0;  // 0: all
  bool operator==(const EvalPhase&) const = default;
};

// Seconds that a cell of each phase may take, and what is loaded before the first one.
struct TimeLimits {
  std::array<double, 6> cell{3600, 1800, 300, 300, 600, 3600};  // by Phase
  double load = 900;
  bool operator==(const TimeLimits&) const = default;
};

struct SweepPlan {
  std::string name;
  std::vector<std::string> models;
  std::vector<std::string> dtypes;
  std::vector<PlanRow> rows;
  std::optional<ConvertPhase> convert;
  std::optional<TunePhase> tune;
  std::optional<GemmPhase> gemm;
  std::optional<PrefillPhase> prefill;
  std::optional<DecodePhase> decode;
  std::optional<EvalPhase> eval;
  std::string weights = "fastest";
  std::string kv_cache_dtype = "bf16";
  std::string head = "bf16";
  std::int64_t seed = 1;
  std::int64_t memory_limit = 0;  // bytes; 0: what the card has
  std::int64_t attempts = 3;      // of a cell that fails, at most
  TimeLimits time_limits;

  bool operator==(const SweepPlan&) const = default;
};

// Throws kInput naming `file`, the member and its value for text that is no plan.
SweepPlan parse_plan(std::string_view text, const std::string& file);
// Reads back as the same plan.
std::string plan_to_json(const SweepPlan& plan);

// What a model directory holds, in the words of a cell.
struct ModelForm {
  std::string dtype, pattern, layout;
  bool packed = false;
};
// Of a packed, W8A8 or plain directory. Throws kIo and kInput.
ModelForm directory_form(const std::string& directory);
bool is_known_shape(std::string_view model);
// Of a known shape, or of a directory by its config.json. Throws kIo and kInput.
ModelConfig shape_of_model(const std::string& model);

// The cells in the order in which they are run: conversions, tunings, then for each model, dtype and row
// gemm, prefill, decode, eval. Each once. A directory has the one form that it has; `form_of` tells it.
// Throws kInput for a directory whose form no row asks for, and for a plan without a cell.
std::vector<Cell> plan_cells(const SweepPlan& plan,
                             const std::function<ModelForm(const std::string&)>& form_of = directory_form);

struct MissionOptions {
  std::vector<std::string> models;  // empty: the mission's four
  std::vector<std::string> dtypes;  // empty: int8 and fp8
  bool convert = true;              // every variant of the models, before anything is measured
  std::int64_t memory_limit = 0;
  std::int64_t prefill_runs = 3;  // the original's: 128
  bool native = false;            // and our own kernels on split weights
  // Decode 3 x 64 steps instead of 3 x 256, prefill at least 0.3 s instead of 1 s: what fits into half an
  // hour.
  bool quick = false;
};
SweepPlan mission_plan(const MissionOptions& options);
// The same matrix for a machine without a card, with a model that it runs in minutes.
SweepPlan cpu_plan();

}  // namespace slidesparse
