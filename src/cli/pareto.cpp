#include <fmt/core.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/dtype_names.h"
#include "cli/output.h"
#include "cli/pattern_option.h"
#include "convert/convert.h"
#include "convert/speed_ratios.h"
#include "convert/statistics.h"
#include "core/fail.h"
#include "core/text.h"
#include "engine/evaluate.h"
#include "io/digest.h"
#include "io/file_writer.h"
#include "io/journal.h"
#include "io/json.h"
#include "io/model_directory.h"
#include "io/text_file.h"
#include "io/tokenizer/tokenizer.h"
#include "model/config.h"
#include "model/model.h"
#include "model/weights.h"

namespace slidesparse {
namespace {

namespace fs = std::filesystem;

constexpr const char* kResults = "pareto.json";

struct ParetoOptions {
  std::string source, work, text, dtype = "int8", speed, plot, json;
  std::vector<std::string> settings;
  ConvertOptions convert;  // what all settings share
  PerplexityOptions perplexity;
  bool keep = false;
};

// One way to convert: "sparsegpt 6:8/split,*.down_proj=8:10".
struct Setting {
  std::string text;
  ConvertOptions options;
};

struct Point {
  std::string setting;
  double perplexity = 0;
  double error = 0;  // standard
  std::int64_t bytes = 0;
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
    if (found == json_.end()) return std::nullopt;
    const std::string where = file_.string() + ": " + key;
    Point point;
    point.setting = json_string(*found, "setting", where);
    point.perplexity = json_number(*found, "perplexity", where, 0, 1e300);
    point.error = json_number(*found, "error", where, 0, 1e300);
    point.bytes = json_int(*found, "bytes", where, 0, std::int64_t{1} << 62);
    point.speed = json_number(*found, "speed", where, 0, 1e6);
    point.seconds = json_number(*found, "seconds", where, 0, 1e9);
    return point;
  }

  void keep(const std::string& key, const Point& point) {
    json_[key] = {{"setting", point.setting}, {"perplexity", point.perplexity}, {"error", point.error},
                  {"bytes", point.bytes},     {"speed", point.speed},           {"seconds", point.seconds}};
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

std::string plot_program(const std::vector<Point>& points, const SpeedRatios& ratios,
                         const std::string& file) {
  std::string script = fmt::format(
      "set terminal svg size 1000,520 dynamic enhanced font 'sans,12'\n"
      "set output '{}'\n"
      "set multiplot layout 1,2\n"
      "set ylabel 'perplexity'\nset grid\nset logscale y\nset key off\nset offsets graph 0.08, graph 0.25, "
      "0, 0\n",
      file);
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
  TextTable table({"setting", "perplexity", "+-", "weights", "predicted speed", "best", "convert s"},
                  {TextTable::Align::kLeft});
  for (const Point& point : points) {
    table.add_row({point.setting, fmt::format("{:.3f}", point.perplexity), fmt::format("{:.2f}", point.error),
                   format_bytes(static_cast<double>(point.bytes)), fmt::format("{:.3f}", point.speed),
                   point.best ? "*" : "", fmt::format("{:.0f}", point.seconds)});
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
        text_(read_text_lines(options.text)),
        tokens_(Tokenizer::from_file(fs::path(options.source) / "tokenizer.json").encode(text_)),
        results_(fs::path(options.work) / kResults) {
    const ModelDirectory model(options.source);
    const ModelConfig config =
        parse_model_config(model.config_text(), (fs::path(options.source) / "config.json").string());
    fingerprint_ = model_fingerprint(model, weight_table(config));
    const std::string& calibration = options.convert.calibration.text;
    if (!calibration.empty()) calibration_digest_ = sha256_hex(read_text_input(calibration));
  }

  std::vector<Point> run() {
    const std::vector<std::string>& texts =
        options_.settings.empty() ? default_settings() : options_.settings;
    std::vector<Setting> settings;
    settings.reserve(texts.size());
    for (const std::string& text : texts) settings.push_back(parse_setting(text, options_.convert));
    std::vector<Point> points;
    points.reserve(settings.size());
    for (const Setting& setting : settings) points.push_back(measure(setting));
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
        options_.dtype, fingerprint_, options_.perplexity.max_windows, options_.perplexity.window,
        sha256_hex(text_), calibration.samples, calibration.sample_length,
        calibration.text.empty() ? std::string("none") : calibration_digest_, calibration.seed,
        options.statistics.string());
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
    ConvertOptions options = setting.options;
    options.target = fs::path(options_.work) / sha256_hex(key).substr(0, 16);
    options.quiet = quiet_;
    if (options.target_speed) {
      options.speeds = options_.speed;
      options.sensitivities = sensitivities_of(setting);
    }
    if (!quiet_) fmt::print(stderr, "{}\n", setting.text);
    const ConvertReport report = converted(options);
    ModelOptions model_options;
    model_options.ms = {options_.perplexity.window};
    const Model model = Model::load(options.target, model_options);
    const PerplexityResult perplexity = evaluate_perplexity(model, tokens_, options_.perplexity);
    Point point{setting.text,
                perplexity.perplexity,
                perplexity.perplexity_error,
                report.target_bytes,
                predicted_speed(ratios_, report),
                report.seconds,
                false};
    results_.keep(key, point);
    if (!quiet_) fmt::print(stderr, "{}: perplexity {:.3f}\n", setting.text, point.perplexity);
    if (!options_.keep) fs::remove_all(options.target);
    return point;
  }

  const ParetoOptions& options_;
  bool quiet_;
  SpeedRatios ratios_;
  std::string text_;
  std::vector<std::int32_t> tokens_;
  Results results_;
  std::string fingerprint_;
  std::string calibration_digest_;
};

void run_pareto(ParetoOptions& options, bool quiet) {
  options.convert.source = options.source;
  options.convert.dtype = parse_dtype_option(options.dtype);
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
  command->add_option(
      "--statistics", options->convert.statistics,
      "Directory of what was learnt about the inputs, for all settings: one calibration run, by the "
      "first that needs it, instead of one a setting");
  command->add_option("--window", options->perplexity.window, "Tokens of a window of the text")
      ->capture_default_str();
  command->add_option("--max-windows", options->perplexity.max_windows, "Only the first N windows (0: all)")
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
