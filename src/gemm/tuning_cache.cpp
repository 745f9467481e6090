#include "gemm/tuning_cache.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <tuple>
#include <utility>

#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/replace_file.h"
#include "core/text.h"

namespace slidesparse {
namespace {

using Json = nlohmann::json;

// Larger files are not ours: a million points would be about 500 MB.
constexpr std::size_t kLargestFile = std::size_t{512} << 20;
constexpr int kSchema = 1;
constexpr std::int64_t kLargestSize = std::int64_t{1} << 40;

// Reads members of one JSON object; every error names file and field.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) fail_input("{}: must be an object; remove the file to tune anew", where_);
  }

  std::string text(const char* key) const {
    const Json& value = member(key);
    if (!value.is_string()) wrong(key, "text", value);
    return value.get<std::string>();
  }
  std::int64_t integer(const char* key, std::int64_t low, std::int64_t high) const {
    const Json& value = member(key);
    const bool fits = value.is_number_integer() &&
                      (!value.is_number_unsigned() ||
                       value.get<std::uint64_t>() <= static_cast<std::uint64_t>(INT64_MAX)) &&
                      value.get<std::int64_t>() >= low && value.get<std::int64_t>() <= high;
    if (!fits) wrong(key, fmt::format("an integer in [{}, {}]", low, high), value);
    return value.get<std::int64_t>();
  }
  double seconds(const char* key) const {
    const Json& value = member(key);
    const double number = value.is_number() ? value.get<double>() : -1;
    if (!std::isfinite(number) || number < 0 || number > 1e6) wrong(key, "seconds in [0, 1e6]", value);
    return number;
  }
  bool flag(const char* key, bool fallback) const {
    if (!object_.contains(key)) return fallback;
    const Json& value = member(key);
    if (!value.is_boolean()) wrong(key, "true or false", value);
    return value.get<bool>();
  }
  std::string text_or(const char* key, const char* fallback) const {
    return object_.contains(key) ? text(key) : fallback;
  }
  // Calls `visit` with each item's fields.
  template <typename Visit>
  void each(const char* key, const Visit& visit) const {
    const Json& list = member(key);
    if (!list.is_array()) wrong(key, "a list", list);
    for (std::size_t i = 0; i < list.size(); ++i)
      visit(Fields(list[i], fmt::format("{}.{}[{}]", where_, key, i)));
  }
  [[noreturn]] void wrong(const char* key, const std::string& wanted, const Json& value) const {
    fail_input("{}.{}: must be {}, is {}; remove the file to tune anew", where_, key, wanted,
               printable(value.dump(-1, ' ', false, Json::error_handler_t::replace), 60));
  }
  const Json& member(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) fail_input("{}.{}: is missing; remove the file to tune anew", where_, key);
    return *found;
  }

 private:
  const Json& object_;
  std::string where_;
};

DType parse_word(const Fields& fields) {
  const std::string word = fields.text("dtype");
  for (const DType dtype : {DType::kI8, DType::kF8E4M3, DType::kBF16}) {
    if (dtype_word(dtype) == word) return dtype;
  }
  fields.wrong("dtype", "int8, fp8 or bf16", word);
}

Layout parse_layout(const Fields& fields) {
  const std::string word = fields.text("layout");
  for (const Layout layout : {Layout::kDense, Layout::kPacked, Layout::kSlid, Layout::kSplit}) {
    if (layout_name(layout) == word) return layout;
  }
  fields.wrong("layout", "dense, packed, slid or split", word);
}

TuningProblem parse_problem(const Fields& fields) {
  TuningProblem problem;
  problem.dtype = parse_word(fields);
  const std::string pattern = fields.text("pattern");
  try {
    problem.pattern = Pattern::parse(pattern);
  } catch (const Error&) {
    fields.wrong("pattern", "one of " + pattern_list(), pattern);
  }
  problem.layout = parse_layout(fields);
  problem.n = fields.integer("n", 1, kLargestSize);
  problem.k = fields.integer("k", 1, kLargestSize);
  problem.bias = fields.flag("bias", false);
  const std::string out = fields.text_or("out", "BF16");
  if (out != dtype_name(DType::kBF16) && out != dtype_name(DType::kF32))
    fields.wrong("out", "BF16 or F32", out);
  problem.out = out == dtype_name(DType::kF32) ? DType::kF32 : DType::kBF16;
  return problem;
}

TunedKernel parse_kernel(const Fields& fields) {
  TunedKernel kernel;
  kernel.backend = fields.text("backend");
  kernel.name = fields.text("kernel");
  kernel.config = fields.text_or("config", "");
  kernel.id = static_cast<int>(fields.integer("id", INT32_MIN, INT32_MAX));
  kernel.sparse = fields.flag("sparse", false);
  kernel.two_roundings = fields.flag("two_roundings", false);
  kernel.reproducible = fields.flag("reproducible", true);
  kernel.finalist = fields.flag("finalist", true);
  kernel.bad = fields.text_or("bad", "");
  if (!kernel.bad.empty()) return kernel;
  kernel.seconds.median = fields.seconds("seconds");
  kernel.seconds.low = fields.seconds("low");
  kernel.seconds.high = fields.seconds("high");
  kernel.seconds.count = static_cast<int>(fields.integer("windows", 0, INT32_MAX));
  return kernel;
}

std::string quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

// One line a kernel, so that people can read and compare.
std::string kernel_line(const TunedKernel& kernel) {
  std::string line =
      fmt::format(R"({{"backend": {}, "kernel": {}, "config": {}, "id": {})", quoted(kernel.backend),
                  quoted(kernel.name), quoted(kernel.config), kernel.id);
  if (kernel.sparse) line += R"(, "sparse": true)";
  if (kernel.two_roundings) line += R"(, "two_roundings": true)";
  if (!kernel.reproducible) line += R"(, "reproducible": false)";
  if (!kernel.finalist) line += R"(, "finalist": false)";
  if (!kernel.bad.empty()) return line + fmt::format(R"(, "bad": {}}})", quoted(kernel.bad));
  return line + fmt::format(R"(, "seconds": {:.4g}, "low": {:.4g}, "high": {:.4g}, "windows": {}}})",
                            kernel.seconds.median, kernel.seconds.low, kernel.seconds.high,
                            kernel.seconds.count);
}

std::string point_text(const TuningProblem& problem, std::int64_t m, const TunedPoint& point) {
  std::string text = fmt::format(
      R"(      {{"dtype": {}, "pattern": {}, "layout": {}, "n": {}, "k": {}, "bias": {}, {}"m": {}, "mode": {}, "kernels": [)",
      quoted(std::string(dtype_word(problem.dtype))), quoted(problem.pattern.to_string()),
      quoted(std::string(layout_name(problem.layout))), problem.n, problem.k, problem.bias,
      problem.out == DType::kF32 ? R"("out": "F32", )" : "", m, quoted(point.mode));
  const char* separator = "\n";
  for (const TunedKernel& kernel : point.kernels) {
    text += separator + ("        " + kernel_line(kernel));
    separator = ",\n";
  }
  return text + "]}";
}

}  // namespace

TuningProblem TuningProblem::of(const GemmDesc& desc) {
  return {desc.w,      desc.layout == Layout::kDense ? Pattern() : desc.pattern,
          desc.layout, desc.n,
          desc.k,      desc.bias,
          desc.out};
}

GemmDesc TuningProblem::desc(std::int64_t m, Device device) const {
  GemmDesc desc;
  desc.m = m;
  desc.n = n;
  desc.k = k;
  desc.x = desc.w = dtype;
  desc.pattern = pattern;
  desc.layout = layout;
  desc.bias = bias;
  desc.out = out;
  desc.bias_dtype = DType::kBF16;  // as models have it
  desc.device = device;
  return desc;
}

bool TuningProblem::operator<(const TuningProblem& other) const {
  const auto key = [](const TuningProblem& problem) {
    return std::tuple(problem.dtype, problem.n, problem.k, problem.bias, problem.layout,
                      problem.pattern.group(), problem.out);
  };
  return key(*this) < key(other);
}

TuningCache TuningCache::parse(std::string_view text, const std::string& file, TuningMachine here) {
  const std::string name = printable(file, 400);
  if (text.size() > kLargestFile) {
    fail_input("{}: {} bytes, more than the {} of any tuning cache", name, text.size(), kLargestFile);
  }
  Json json;
  try {
    json = Json::parse(text.begin(), text.end());
  } catch (const Json::exception& error) {
    std::string_view message = error.what();
    if (const auto bracket = message.find("] "); bracket != std::string_view::npos)
      message.remove_prefix(bracket + 2);
    fail_input("{}: {}; remove the file to tune anew", name, printable(message));
  }
  const Fields top(json, name);
  if (const std::string kind = top.text("file"); kind != "slidesparse tuning cache")
    top.wrong("file", "\"slidesparse tuning cache\"", kind);
  top.integer("schema", kSchema, kSchema);
  TuningCache cache(std::move(here));
  top.each("machines", [&](const Fields& machine) {
    const TuningMachine key{machine.text("device"), machine.text("driver"), machine.text("libraries"),
                            machine.text("program")};
    Problems& problems = cache.machines_[key];
    machine.each("points", [&](const Fields& fields) {
      TunedPoint point;
      point.mode = fields.text("mode");
      fields.each("kernels", [&](const Fields& kernel) { point.kernels.push_back(parse_kernel(kernel)); });
      problems[parse_problem(fields)][fields.integer("m", 1, kLargestSize)] = std::move(point);
    });
  });
  return cache;
}

TuningCache TuningCache::load(const std::string& path, TuningMachine here) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    if (errno == ENOENT || errno == ENOTDIR) return TuningCache(std::move(here));
    fail(ErrorKind::kIo, "{}: cannot open: {}", printable(path, 400), std::strerror(errno));
  }
  std::ostringstream text;
  if (file.peek() != std::ifstream::traits_type::eof()) text << file.rdbuf();
  if (file.bad() || text.fail()) fail(ErrorKind::kIo, "{}: cannot read", printable(path, 400));
  return parse(text.str(), path, std::move(here));
}

std::string TuningCache::to_json() const {
  std::string text = fmt::format(
      "{{\n  \"file\": \"slidesparse tuning cache\",\n  \"schema\": {},\n  \"machines\": [", kSchema);
  const char* separator = "\n";
  for (const auto& [machine, problems] : machines_) {
    text += separator + fmt::format(
                            "    {{\"device\": {}, \"driver\": {}, \"libraries\": {}, \"program\": {}, "
                            "\"points\": [",
                            quoted(machine.device), quoted(machine.driver), quoted(machine.libraries),
                            quoted(machine.program));
    const char* comma = "\n";
    for (const auto& [problem, points] : problems) {
      for (const auto& [m, point] : points) {
        text += comma + point_text(problem, m, point);
        comma = ",\n";
      }
    }
    text += "]}";
    separator = ",\n";
  }
  return text + "]\n}\n";
}

void TuningCache::save(const std::string& path) {
  const FileLock lock(path + ".lock");
  merge(load(path, here_));
  replace_file(path, to_json());
}

void TuningCache::put(const TuningProblem& problem, std::int64_t m, TunedPoint point) {
  machines_[here_][problem][m] = std::move(point);
}

const TunedPoints* TuningCache::points(const TuningProblem& problem) const {
  const auto machine = machines_.find(here_);
  if (machine == machines_.end()) return nullptr;
  const auto found = machine->second.find(problem);
  return found == machine->second.end() ? nullptr : &found->second;
}

const TunedPoint* TuningCache::at(const TuningProblem& problem, std::int64_t m) const {
  const TunedPoints* found = points(problem);
  if (found == nullptr) return nullptr;
  const auto point = found->find(m);
  return point == found->end() ? nullptr : &point->second;
}

void TuningCache::merge(const TuningCache& other) {
  for (const auto& [machine, problems] : other.machines_) {
    for (const auto& [problem, points] : problems)
      machines_[machine][problem].insert(points.begin(), points.end());
  }
}

namespace {

std::int64_t count_points(const std::map<TuningProblem, TunedPoints>& problems) {
  std::int64_t count = 0;
  for (const auto& [problem, points] : problems) count += static_cast<std::int64_t>(points.size());
  return count;
}

}  // namespace

std::int64_t TuningCache::size() const {
  const auto machine = machines_.find(here_);
  return machine == machines_.end() ? 0 : count_points(machine->second);
}

std::int64_t TuningCache::stale() const {
  std::int64_t count = 0;
  for (const auto& [machine, problems] : machines_) {
    if (machine.device == here_.device && machine != here_) count += count_points(problems);
  }
  return count;
}

std::int64_t TuningCache::drop_stale() {
  const std::int64_t count = stale();
  std::erase_if(machines_, [&](const auto& entry) {
    return entry.first.device == here_.device && entry.first != here_;
  });
  return count;
}

}  // namespace slidesparse
