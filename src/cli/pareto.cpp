#include <fmt/core.h>
#include <fmt/ranges.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/dtype_names.h"
#include "cli/evaluation.h"
#include "cli/output.h"
#include "cli/pattern_option.h"
#include "convert/convert.h"
#include "convert/speed_ratios.h"
#include "convert/statistics.h"
#include "core/fail.h"
#include "core/text.h"
#include "io/digest.h"
#include "io/file_writer.h"
#include "io/journal.h"
#include "io/json.h"
#include "io/model_directory.h"
#include "io/text_file.h"
#include "model/config.h"
#include "model/weights.h"

namespace slidesparse {
namespace {

namespace fs = std::filesystem;

constexpr const char* kResults = "pareto.json";

struct ParetoOptions {
  std::string source, work, text, hellaswag, dtype = "int8", rounding, speed, plot, json;
  std::int64_t max_tasks = 0;
  std::vector<std::string> settings;
  ConvertOptions convert;  // what all settings share
  EvaluationWork evaluation;
  bool keep = false;
};

// One way to convert: "sparsegpt 6:8/split,*.down_proj=8:10".
struct Setting {
  std::string text;
  ConvertOptions options;
};

struct Accuracy {
  double value = 0;  // acc_norm
  double error = 0;  // standard
};

struct Point {
  std::string setting;
  double perplexity = 0;
  double error = 0;  // standard
  std::optional<Accuracy> hellaswag;
  std::int64_t bytes = 0;
  WorkShares work;
  double speed = 0;    // predicted, over dense
  double seconds = 0;  // of conversion
  bool best = false;   // no other is better without being slower
};

const std::vector<std::string>& default_settings() {
  static const std::vector<std::string> kSettings{
      "none dense",          "sparsegpt 14:16",     "sparsegpt 8:10",        "sparsegpt 6:8",
      "sparsegpt 4:6",       "sparsegpt 2:4",       "sparsegpt 14:16/split", "sparsegpt 8:10/split",
      "sparsegpt 6:8/split", "sparsegpt 4:6/split", "sparsegpt 2:4/split"};
  return kSettings;
}

Setting parse_setting(const std::string& text, const ConvertOptions& shared) {
  const std::size_t space = text.find(' ');
  if (space == std::string::npos) {
    fail(ErrorKind::kUsage,
         "--setting \"{}\": a method and patterns are needed, as in \"sparsegpt 6:8/split\"",
         printable(text));
  }
  Setting setting{text, shared};
  setting.options.method = parse_prune_method(text.substr(0, space));
  // Of the methods only this one can do it.
  if (setting.options.method != PruneMethod::kSparseGpt) setting.options.gptq.reset();
  std::istringstream rest(text.substr(space + 1));
  if (parse_target_speed(rest.str(), setting.options)) return setting;
  std::vector<std::string> patterns;
  for (std::string part; std::getline(rest, part, ',');) patterns.push_back(part);
  parse_patterns(patterns, setting.options);
  if (!needs_calibration(setting.options.method)) {
    setting.options.calibration = {};
    setting.options.statistics.clear();
  }
  return setting;
}

// Points that were measured before, by what they depend on.
class Results {
 public:
  explicit Results(const fs::path& file) : file_(file), json_(Json::object()) {
    if (fs::exists(file)) json_ = parse_json(read_text_file(file), file.string());
  }

  std::optional<Point> find(const std::string& key) const {
    const auto found = json_.find(key);
    // Older files have a speed instead of what it is made from.
    if (found == json_.end() || !found->contains("work") || !found->at("work").is_object())
      return std::nullopt;
    const std::string where = file_.string() + ": " + key;
    Point point;
    point.setting = json_string(*found, "setting", where);
    point.perplexity = json_number(*found, "perplexity", where, 0, 1e300);
    point.error = json_number(*found, "error", where, 0, 1e300);
    if (found->contains("acc_norm"))
      point.hellaswag = Accuracy{json_number(*found, "acc_norm", where, 0, 1),
                                 json_number(*found, "acc_norm_error", where, 0, 1)};
    point.bytes = json_int(*found, "bytes", where, 0, std::int64_t{1} << 62);
    for (const PackedLayout layout : {PackedLayout::kSlide, PackedLayout::kSplit}) {
      const Json& work = found->at("work");
      const std::string name(packed_layout_name(layout));
      const Json* shares = json_object_or_null(work, name, where);
      if (shares == nullptr) continue;
      for (const auto& item : shares->items())
        point.work[{item.key(), layout}] = json_number(*shares, item.key(), where, 0, 1);
    }
    point.seconds = json_number(*found, "seconds", where, 0, 1e9);
    return point;
  }

  void keep(const std::string& key, const Point& point) {
    json_[key] = {{"setting", point.setting},
                  {"perplexity", point.perplexity},
                  {"error", point.error},
                  {"bytes", point.bytes},
                  {"seconds", point.seconds}};
    json_[key]["work"] = Json::object();
    for (const auto& [of, share] : point.work)
      json_[key]["work"][std::string(packed_layout_name(of.second))][of.first] = share;
    if (point.hellaswag) {
      json_[key]["acc_norm"] = point.hellaswag->value;
      json_[key]["acc_norm_error"] = point.hellaswag->error;
    }
    write_file_atomically(file_, json_.dump(1) + "\n");
  }

 private:
  fs::path file_;
  Json json_;
};

// A point is best when no other has at most its perplexity at more speed, or less at the same.
void mark_best(std::vector<Point>& points) {
  for (Point& point : points) {
    point.best = std::none_of(points.begin(), points.end(), [&](const Point& other) {
      const bool better = other.perplexity <= point.perplexity && other.speed >= point.speed;
      return better && (other.perplexity < point.perplexity || other.speed > point.speed);
    });
  }
}

// A logarithmic axis that fits: by itself it would reach from one power of ten to the next.
std::string perplexity_axis(const std::vector<Point>& points) {
  constexpr double kMargin = 1.06;
  const auto [low, high] =
      std::minmax_element(points.begin(), points.end(),
                          [](const Point& a, const Point& b) { return a.perplexity < b.perplexity; });
  const double from = low->perplexity / kMargin, to = high->perplexity * kMargin;
  std::vector<std::string> ticks;
  for (int exponent = static_cast<int>(std::floor(std::log10(from))); std::pow(10, exponent) < to;
       ++exponent) {
    for (const double step : {1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0}) {
      const double tick = step * std::pow(10, exponent);
      if (tick >= from && tick <= to) ticks.push_back(fmt::format("{:g}", tick));
    }
  }
  return fmt::format("set yrange [{}:{}]\nset ytics ({})\n", from, to, fmt::join(ticks, ", "));
}

std::string plot_program(const std::vector<Point>& points, const SpeedRatios& ratios,
                         const std::string& file) {
  std::string script = fmt::format(
      "set terminal svg size 1000,520 dynamic enhanced font 'sans,12'\n"
      "set output '{}'\n"
      "set multiplot layout 1,2\n"
      "set ylabel 'perplexity'\nset grid\nset logscale y\nset key off\nset offsets graph 0.08, graph 0.25, "
      "0, 0\n",
      file);
  script += perplexity_axis(points);
  const auto panel = [&](const std::string& label, const auto& x_of) {
    script += fmt::format("set xlabel '{}'\n$points << EOD\n", label);
    for (const Point& point : points)
      script += fmt::format("{:.6g} {:.6g} \"{}\" {}\n", x_of(point), point.perplexity, point.setting,
                            point.best ? 7 : 6);
    script +=
        "EOD\nplot $points using 1:2:4 with points pointtype variable pointsize 0.8 linecolor rgb '#1f6feb', "
        "$points "
        "using 1:2:3 with labels left offset 0.8,0 font ',9' noenhanced\n";
  };
  panel(fmt::format("predicted speed over dense ({})", ratios.source),
        [](const Point& point) { return point.speed; });
  panel("MB of weights", [](const Point& point) { return static_cast<double>(point.bytes) / 1e6; });
  return script;
}

// gnuplot writes the file itself; it appears only when that went well.
void plot(const std::vector<Point>& points, const SpeedRatios& ratios, const std::string& path) {
  for (const std::string& text : {path, ratios.source}) {
    if (text.find_first_of("'\n") != std::string::npos)
      fail(ErrorKind::kUsage, "--plot {}: quotes and line breaks cannot be in it", printable(text));
  }
  const std::string partial = path + ".partial";
  const std::string script_file = path + ".gnuplot";
  write_file_atomically(script_file, plot_program(points, ratios, partial));
  std::string program = "gnuplot";
  std::string script = script_file;
  char* arguments[] = {program.data(), script.data(), nullptr};
  pid_t child = 0;
  const int started = ::posix_spawnp(&child, "gnuplot", nullptr, nullptr, arguments, environ);
  int status = 0;
  if (started != 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status) ||
      WEXITSTATUS(status) != 0) {
    fail(ErrorKind::kIo, "--plot {}: gnuplot {}; its program is kept in {}", printable(path),
         started != 0 ? fmt::format("cannot be started ({}): install gnuplot-nox", std::strerror(started))
                      : std::string("failed"),
         printable(script_file));
  }
  fs::rename(partial, path);
  fs::remove(script_file);
}

void print_points(const std::vector<Point>& points, const SpeedRatios& ratios) {
  std::vector<std::string> header{"setting", "perplexity", "+-"};
  const bool tasks = !points.empty() && points.front().hellaswag.has_value();
  if (tasks) header.insert(header.end(), {"acc_norm", "+-"});
  header.insert(header.end(), {"weights", "predicted speed", "best", "convert s"});
  TextTable table(header, {TextTable::Align::kLeft});
  for (const Point& point : points) {
    std::vector<std::string> cells{point.setting, fmt::format("{:.3f}", point.perplexity),
                                   fmt::format("{:.2f}", point.error)};
    if (tasks) {
      cells.push_back(fmt::format("{:.3f}", point.hellaswag->value));
      cells.push_back(fmt::format("{:.3f}", point.hellaswag->error));
    }
    cells.insert(cells.end(),
                 {format_bytes(static_cast<double>(point.bytes)), fmt::format("{:.3f}", point.speed),
                  point.best ? "*" : "", fmt::format("{:.0f}", point.seconds)});
    table.add_row(std::move(cells));
  }
  fmt::print("{}predicted speed: linears over dense, {}; * nothing else is better without being slower\n",
             table.to_string(), ratios.source);
}

class Pareto {
 public:
  Pareto(const ParetoOptions& options, bool quiet)
      : options_(options),
        quiet_(quiet),
        ratios_(options.speed.empty() ? default_speed_ratios() : read_speed_ratios(options.speed)),
        work_(options.evaluation),
        results_(fs::path(options.work) / kResults) {
    const ModelDirectory model(options.source);
    const ModelConfig config =
        parse_model_config(model.config_text(), (fs::path(options.source) / "config.json").string());
    fingerprint_ = model_fingerprint(model, weight_table(config));
    const std::string& calibration = options.convert.calibration.text;
    if (!calibration.empty()) calibration_digest_ = sha256_hex(read_text_input(calibration));
    work_.text = read_text_lines(options.text);
    // Points that are known need no card.
    const std::string& device = work_.linear.placement.device;
    on_card_ = device == "cuda" || parse_device(device) == DeviceKind::kCuda;
    if (options.hellaswag.empty()) return;
    work_.tasks = read_hellaswag(options.hellaswag, options.max_tasks);
    hellaswag_digest_ = sha256_hex(read_text_input(options.hellaswag));
  }

  std::vector<Point> run() {
    const std::vector<std::string>& texts =
        options_.settings.empty() ? default_settings() : options_.settings;
    std::vector<Setting> settings;
    settings.reserve(texts.size());
    for (const std::string& text : texts) settings.push_back(parse_setting(text, options_.convert));
    std::vector<Point> points;
    points.reserve(settings.size());
    for (const Setting& setting : settings) {
      points.push_back(measure(setting));
      points.back().speed = predicted_speed(ratios_, points.back().work);
    }
    mark_best(points);
    return points;
  }

  const SpeedRatios& ratios() const { return ratios_; }

 private:
  // Everything that a point depends on.
  std::string key_of(const Setting& setting) const {
    const ConvertOptions& options = setting.options;
    const CalibrationOptions& calibration = options.calibration;
    std::string key = fmt::format(
        "{} {} of {:.16} | {} x {} of {:.16} | {} x {} of {:.16} seed {} statistics \"{}\"", setting.text,
        options_.dtype, fingerprint_, work_.perplexity.max_windows, work_.perplexity.window,
        sha256_hex(*work_.text), calibration.samples, calibration.sample_length,
        calibration.text.empty() ? std::string("none") : calibration_digest_, calibration.seed,
        options.statistics.string());
    if (uses_gptq(options)) key += " gptq";
    if (on_card_) key += " on a card";
    if (!work_.tasks.empty())
      key += fmt::format(" | {} tasks of {:.16}", work_.tasks.size(), hellaswag_digest_);
    if (options.target_speed) {
      std::string speeds;
      for (const auto& [of, speed] : ratios_.ratios)
        speeds += fmt::format("{} {} {};", of.first, packed_layout_name(of.second), speed);
      key += fmt::format(" speeds {:.16}", sha256_hex(speeds));
    }
    return key;
  }

  // What pruning single groups costs, which settings share that differ in target or --dtype only.
  fs::path sensitivities_of(const Setting& setting) const {
    const ConvertOptions& options = setting.options;
    const CalibrationOptions& calibration = options.calibration;
    std::string key = fmt::format("{} {} of {} | {} x {} of {} seed {}", prune_method_name(options.method),
                                  packed_layout_name(options.layout), fingerprint_, calibration.samples,
                                  calibration.sample_length, calibration_digest_, calibration.seed);
    for (const auto& [of, speed] : ratios_.ratios) key += " " + of.first;
    return fs::path(options_.work) / fmt::format("sensitivities-{:.16}.json", sha256_hex(key));
  }

  // Also when a run before this one was stopped between conversion and evaluation.
  static ConvertReport converted(const ConvertOptions& options) {
    const fs::path file = options.target / kReportFile;
    if (fs::exists(file) && !fs::exists(options.target / kJournalName))
      return report_from_json(read_text_file(file), file.string());
    return convert_model(options);
  }

  Point measure(const Setting& setting) {
    const std::string key = key_of(setting);
    if (const auto found = results_.find(key)) return *found;
    if (on_card_) parse_device(work_.linear.placement.device);  // before the conversion: is there one?
    ConvertOptions options = setting.options;
    options.target = fs::path(options_.work) / sha256_hex(key).substr(0, 16);
    options.quiet = quiet_;
    if (options.target_speed) {
      options.speeds = options_.speed;
      options.sensitivities = sensitivities_of(setting);
    }
    if (!quiet_) fmt::print(stderr, "{}\n", setting.text);
    const ConvertReport report = converted(options);
    const Evaluation found = evaluate_directory(options.target.string(), work_, setting.text, quiet_);
    Point point{setting.text,
                found.perplexity->perplexity,
                found.perplexity->perplexity_error,
                std::nullopt,
                report.target_bytes,
                work_shares(report),
                0,
                report.seconds,
                false};
    if (found.hellaswag)
      point.hellaswag = Accuracy{found.hellaswag->accuracy_norm, found.hellaswag->accuracy_norm_error};
    results_.keep(key, point);
    if (!quiet_) fmt::print(stderr, "{}: perplexity {:.3f}\n", setting.text, point.perplexity);
    if (!options_.keep) fs::remove_all(options.target);
    return point;
  }

  const ParetoOptions& options_;
  bool quiet_;
  SpeedRatios ratios_;
  EvaluationWork work_;
  bool on_card_ = false;
  Results results_;
  std::string fingerprint_;
  std::string calibration_digest_;
  std::string hellaswag_digest_;
};

void run_pareto(ParetoOptions& options, bool quiet) {
  options.convert.source = options.source;
  options.convert.dtype = parse_dtype_option(options.dtype);
  options.convert.gptq = parse_rounding_option(options.rounding);
  std::error_code error;
  fs::create_directories(options.work, error);
  if (error)
    fail(ErrorKind::kIo, "{}: cannot create the directory: {}", printable(options.work), error.message());
  Pareto pareto(options, quiet);
  const std::vector<Point> points = pareto.run();
  if (options.json != "-") print_points(points, pareto.ratios());
  if (!options.plot.empty()) plot(points, pareto.ratios(), options.plot);
  if (options.json.empty()) return;
  nlohmann::ordered_json json = describe_run("pareto");
  json["speed_source"] = pareto.ratios().source;
  json["points"] = nlohmann::ordered_json::array();
  for (const Point& point : points) {
    json["points"].push_back({{"setting", point.setting},
                              {"perplexity", point.perplexity},
                              {"perplexity_error", point.error},
                              {"weight_bytes", point.bytes},
                              {"predicted_speed", point.speed},
                              {"best", point.best},
                              {"convert_seconds", point.seconds}});
    if (!point.hellaswag) continue;
    json["points"].back()["acc_norm"] = point.hellaswag->value;
    json["points"].back()["acc_norm_error"] = point.hellaswag->error;
  }
  write_json(options.json, json);
}

}  // namespace

void add_pareto(CLI::App& app, const GlobalOptions& global) {
  auto options = std::make_shared<ParetoOptions>();
  CLI::App* command = app.add_subcommand(
      "pareto", "Converts a model in several ways and shows perplexity against speed and bytes; resumable");
  command->add_option("SRC", options->source, "Hugging Face directory: BF16, FP16 or FP32")->required();
  command
      ->add_option("--work", options->work,
                   "Directory for conversions and for results, which a next run reuses")
      ->required();
  command->add_option("--text", options->text, "Text whose perplexity is measured (UTF-8)")->required();
  command->add_option("--calibration", options->convert.calibration.text,
                      "Text that sparsegpt and wanda run the model on: another one");
  command
      ->add_option(
          "--setting", options->settings,
          "METHOD PATTERNS, as convert takes them: \"sparsegpt 6:8/split,*.down_proj=8:10\", or METHOD "
          "speed=TARGET, as convert --target-speed: \"sparsegpt speed=1.135/split\" (repeatable; "
          "default: sparsegpt at 14:16 to 2:4 in both layouts, and dense)")
      ->allow_extra_args(false);
  command->add_option("--dtype", options->dtype, "int8, fp8 or bf16")->capture_default_str();
  command->add_option("--samples", options->convert.calibration.samples, "Windows of the calibration text")
      ->capture_default_str();
  command->add_option("--sample-length", options->convert.calibration.sample_length, "Tokens of a window")
      ->capture_default_str();
  command->add_option("--seed", options->convert.calibration.seed, "Which windows")->capture_default_str();
  command->add_option("--rounding", options->rounding, "As convert's, for sparsegpt with --dtype fp8");
  command->add_option(
      "--statistics", options->convert.statistics,
      "Directory of what was learnt about the inputs, for all settings: one calibration run, by the "
      "first that needs it, instead of one a setting");
  command->add_option(
      "--device", options->evaluation.linear.placement.device,
      "Where models are measured, cpu or cuda (default: cuda where there is a card); they are "
      "converted on the CPU");
  command->add_option("--window", options->evaluation.perplexity.window, "Tokens of a window of the text")
      ->capture_default_str();
  command
      ->add_option("--max-windows", options->evaluation.perplexity.max_windows,
                   "Only the first N windows (0: all)")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--hellaswag", options->hellaswag,
                      "HellaSwag as well: the official jsonl, or six lines a task");
  command->add_option("--max-tasks", options->max_tasks, "Only its first N tasks (0: all)")
      ->check(CLI::NonNegativeNumber);
  command->add_option(
      "--speed", options->speed,
      "JSON with speeds over dense by layout and pattern, {\"slide\": {\"6:8\": 1.0}, \"split\": {...}}");
  command->add_option("--plot", options->plot, "Write a chart (SVG), through gnuplot");
  command->add_option("--json", options->json, "Write the points as JSON (- for standard output)");
  command->add_flag("--keep", options->keep, "Keep the converted directories");
  command->footer(
      "Example: slidesparse pareto SmolLM2 --work try --calibration mine.txt --text test.txt --max-windows "
      "10 --plot "
      "try.svg");
  command->callback([options, &global] { run_pareto(*options, global.quiet); });
}

}  // namespace slidesparse
