#include "model/model_test_tools.h"

#include <unistd.h>

#include <fstream>

namespace slidesparse::test {

void write_model_directory(const std::filesystem::path& directory, const std::string& config,
                           const std::vector<NewTensor>& tensors) {
  std::filesystem::create_directories(directory);
  std::ofstream(directory / "config.json") << config;
  std::vector<TensorEntry> entries;
  entries.reserve(tensors.size());
  for (const NewTensor& tensor : tensors) {
    entries.push_back({tensor.name, tensor.dtype, Shape(std::span<const std::int64_t>(tensor.shape)), 0, 0});
  }
  std::ofstream file(directory / "model.safetensors", std::ios::binary);
  file << build_safetensors_header(entries, {});
  for (const NewTensor& tensor : tensors) {
    file.write(reinterpret_cast<const char*>(tensor.bytes.data()),
               static_cast<std::streamsize>(tensor.bytes.size()));
  }
}

ScratchDirectory::ScratchDirectory(const std::string& name)
    : path_(std::filesystem::temp_directory_path() / (name + "-" + std::to_string(::getpid()))) {
  std::filesystem::remove_all(path_);
  std::filesystem::create_directories(path_);
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace slidesparse::test
