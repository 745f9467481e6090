#include "sweep/convert_runner.h"

#include <algorithm>
#include <filesystem>
#include <span>
#include <vector>

#include "convert/convert.h"
#include "convert/random_model.h"
#include "core/fail.h"
#include "io/digest.h"
#include "io/mapped_file.h"
#include "sweep/plan.h"

namespace slidesparse {
namespace {

namespace fs = std::filesystem;

// Of all files of a directory, in the order of their names: name, a zero byte, content.
std::string directory_sha256(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) files.push_back(entry.path());
  std::ranges::sort(files);
  Sha256 digest;
  for (const fs::path& file : files) {
    const std::string name = file.filename().string();
    digest.update(std::as_bytes(std::span(name.c_str(), name.size() + 1)));
    if (fs::file_size(file) == 0) continue;
    const MappedFile mapped(file);
    digest.update(mapped.bytes());
  }
  return digest.finish();
}

fs::path source_of(const WorkerSetup& setup, const Cell& cell, const std::function<void(bool)>& loading) {
  if (!is_known_shape(cell.model)) return cell.model;
  fs::path source = fs::path(setup.work) / fmt::format("{}-{}", cell.model, cell.options.seed.value_or(0));
  if (fs::exists(source)) return source;  // complete: it gets its name at its end
  loading(true);
  RandomModelOptions options;
  options.target = source;
  options.seed = static_cast<std::uint64_t>(cell.options.seed.value_or(0));
  options.quiet = true;
  random_model(cell.model, options);
  loading(false);
  return source;
}

}  // namespace

void run_convert_cell(const WorkerSetup& setup, const Cell& cell, const std::function<void(bool)>& loading,
                      CellResult& result) {
  fs::create_directories(setup.work);
  ConvertOptions options;
  options.source = source_of(setup, cell, loading);
  options.target = fs::path(setup.work) / "converted";
  // What an attempt that was killed left is not gone on with: the time is that of a whole conversion.
  for (const char* left : {"converted", "converted.partial"}) fs::remove_all(fs::path(setup.work) / left);
  options.pattern = Pattern::parse(cell.pattern);
  options.dtype = dtype_of(cell.dtype, "cell");
  options.layout = parse_packed_layout(cell.layout, "cell");
  options.quiet = true;
  const ConvertReport report = convert_model(options);
  result.measure("seconds", "s", report.seconds);
  result.measure("bytes", "B", static_cast<double>(report.target_bytes));
  result.measure("source_bytes", "B", static_cast<double>(report.source_bytes));
  result.attributes["sha256"] = directory_sha256(options.target);
  fs::remove_all(options.target);
  result.outcome = Class::kOk;
}

}  // namespace slidesparse
