#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "io/safetensors.h"

namespace slidesparse {

// The text of model.safetensors.index.json: tensor name -> shard. Throws kInput for shard names that are not
// plain names of .safetensors files.
std::map<std::string, std::string> parse_weight_index(std::string_view text, const std::string& file);

// A Hugging Face model directory opened for reading: config.json, one model.safetensors or shards with
// model.safetensors.index.json, all mapped. Tensors are views into the mappings and live as long as this
// object. Opening checks every header, that the index and the shards name the same tensors, that shard names
// are plain file names inside the directory (no '/', '..', absolute paths), that tensors are aligned to their
// element size, and that no conversion is unfinished there. A file of the directory may be a link to a
// regular file: the Hub's cache stores every file that way, and only reading goes through it; dangling links
// and links to directories are refused.
class ModelDirectory {
 public:
  explicit ModelDirectory(const std::filesystem::path& path);
  ~ModelDirectory();
  ModelDirectory(ModelDirectory&&) noexcept;
  ModelDirectory& operator=(ModelDirectory&&) noexcept;

  const std::filesystem::path& path() const;
  // The text of config.json.
  const std::string& config_text() const;
  // All tensors of all shards, sorted by name.
  const std::vector<TensorEntry>& tensors() const;
  bool contains(std::string_view name) const;
  // Throws kInput naming the directory when the tensor is missing.
  TensorView tensor(std::string_view name) const;
  std::optional<TensorView> find(std::string_view name) const;
  // Checks dtype-independent shape; throws kInput with expected and found.
  TensorView tensor(std::string_view name, const Shape& expected) const;
  // Shard file that holds a tensor (for messages and for hashing), e.g. "model-00001-of-00002.safetensors".
  std::string file_of(std::string_view name) const;
  std::int64_t total_tensor_bytes() const;
  // Hints for streaming readers: see MappedFile.
  void prefetch(std::string_view name) const;
  void release(std::string_view name) const;
  // Files of the directory that are not config.json, weights or their index, and not hidden (tokenizer.json,
  // generation_config.json, ...): plain names, sorted. Regular files and links to regular files only.
  std::vector<std::string> side_files() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace slidesparse
