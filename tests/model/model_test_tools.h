#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"
#include "model/engine_free_steps.h"
#include "model/model.h"

namespace slidesparse::test {

inline std::filesystem::path golden(const std::string& family) {
  return std::filesystem::path(SLIDESPARSE_TEST_DATA) / "model/golden" / family;
}

// All tensors of one safetensors file, copied out.
class TensorFile {
 public:
  explicit TensorFile(const std::filesystem::path& path) : file_(path) {
    const SafetensorsHeader header = parse_safetensors_header(file_.bytes(), file_.size(), path.string());
    for (const TensorEntry& entry : header.tensors) {
      views_[entry.name] = TensorView::contiguous(
          static_cast<const void*>(file_.bytes().data() + header.data_begin + entry.begin), entry.dtype,
          entry.shape);
    }
  }
  const std::map<std::string, TensorView>& all() const { return views_; }
  const TensorView& at(const std::string& name) const { return views_.at(name); }

 private:
  MappedFile file_;
  std::map<std::string, TensorView> views_;
};

// A tensor to be written: name, type, shape and bytes.
struct NewTensor {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;
};

// Writes DIR/config.json and DIR/model.safetensors.
void write_model_directory(const std::filesystem::path& directory, const std::string& config,
                           const std::vector<NewTensor>& tensors);

// That `make` refuses tokens outside the vocabulary and samples longer than the model's positions, and takes
// others.
void expect_tokens_are_checked(
    const ModelConfig& config,
    const std::function<void(const std::vector<std::int32_t>& tokens, std::int64_t length)>& make);

// A directory that is removed at the end of a test.
class ScratchDirectory {
 public:
  explicit ScratchDirectory(const std::string& name);
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace slidesparse::test
