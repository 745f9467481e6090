#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "convert/convert.h"
#include "io/file_writer.h"
#include "model/config.h"
#include "slidesparse/core/dtype.h"

namespace slidesparse::testing_support {

// The system's calls without waiting for the disk: tests do not pull plugs.
FileOps fast_ops();

// A directory of its own for one test, removed at the end. Meanwhile fast_ops() are in use.
class Workspace {
 public:
  Workspace();
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

// Two layers, awkward widths (hidden 40, intermediate 72: tails in most patterns), vocabulary 300.
ModelConfig small_config(Family family = Family::kLlama, DType dtype = DType::kBF16, bool tied = true);
void make_model(const std::filesystem::path& path, const ModelConfig& config = small_config());

ConvertOptions options_for(const std::filesystem::path& source, const std::filesystem::path& target,
                           const char* pattern = "6:8", DType dtype = DType::kF8E4M3);

// Names and contents of all files of a directory.
std::map<std::string, std::string> snapshot(const std::filesystem::path& path);
std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, const std::string& content);

struct RawTensor {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
  std::string bytes;
};
// All tensors of a directory, and the way back (one shard, config.json as given).
std::vector<RawTensor> load_tensors(const std::filesystem::path& path);
void save_model(const std::filesystem::path& path, const std::string& config_json,
                std::vector<RawTensor> tensors);
RawTensor& find_tensor(std::vector<RawTensor>& tensors, const std::string& name);

// The message of the Error that `body` throws; "" when it throws none.
template <typename Body>
std::string error_of(Body body) {
  try {
    body();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

}  // namespace slidesparse::testing_support
