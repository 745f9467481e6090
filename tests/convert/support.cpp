#include "support.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "convert/random_model.h"
#include "io/model_directory.h"
#include "io/safetensors.h"

namespace slidesparse::testing_support {

namespace fs = std::filesystem;

FileOps fast_ops() {
  FileOps ops = FileOps::system();
  ops.sync = [](int) { return 0; };
  return ops;
}

Workspace::Workspace() {
  std::string name = (fs::temp_directory_path() / "slidesparse_convert_XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = name;
  file_ops() = fast_ops();
}

Workspace::~Workspace() {
  file_ops() = FileOps::system();
  std::error_code error;
  fs::remove_all(path_, error);
}

ModelConfig small_config(Family family, DType dtype, bool tied) {
  ModelConfig config;
  config.family = family;
  config.hidden = 40;
  config.intermediate = 72;
  config.layers = 2;
  config.heads = 5;
  config.kv_heads = 1;
  config.head_dim = 8;
  config.vocab = 300;
  config.max_position = 512;
  config.tied_embeddings = tied;
  config.qkv_bias = family == Family::kQwen2;
  config.qk_norm = family == Family::kQwen3;
  config.bos_token = 298;
  config.eos_tokens = {299};
  config.dtype = dtype;
  return config;
}

void make_model(const fs::path& path, const ModelConfig& config) {
  RandomModelOptions options;
  options.target = path;
  options.seed = 11;
  options.quiet = true;
  random_model(config, options);
}

ConvertOptions options_for(const fs::path& source, const fs::path& target, const char* pattern, DType dtype) {
  ConvertOptions options;
  options.source = source;
  options.target = target;
  options.pattern = Pattern::parse(pattern);
  options.dtype = dtype;
  options.quiet = true;
  return options;
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void write_file(const fs::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

std::map<std::string, std::string> snapshot(const fs::path& path) {
  std::map<std::string, std::string> files;
  for (const auto& item : fs::directory_iterator(path)) {
    files[item.path().filename().string()] = read_file(item.path());
  }
  return files;
}

std::vector<RawTensor> load_tensors(const fs::path& path) {
  const ModelDirectory directory(path);
  std::vector<RawTensor> tensors;
  for (const TensorEntry& entry : directory.tensors()) {
    const TensorView view = directory.tensor(entry.name);
    tensors.push_back({entry.name,
                       entry.dtype,
                       {entry.shape.dims().begin(), entry.shape.dims().end()},
                       std::string(view.as<const char>(), static_cast<std::size_t>(view.byte_size()))});
  }
  return tensors;
}

void save_model(const fs::path& path, const std::string& config_json, std::vector<RawTensor> tensors) {
  fs::create_directories(path);
  std::stable_sort(tensors.begin(), tensors.end(), [](const RawTensor& a, const RawTensor& b) {
    return dtype_size(a.dtype) > dtype_size(b.dtype);
  });
  std::vector<TensorEntry> entries;
  entries.reserve(tensors.size());
  for (const RawTensor& tensor : tensors)
    entries.push_back({tensor.name, tensor.dtype, Shape(tensor.shape), 0, 0});
  std::string text = build_safetensors_header(entries, {{"format", "pt"}});
  for (const RawTensor& tensor : tensors) text += tensor.bytes;
  write_file(path / "model.safetensors", text);
  write_file(path / "config.json", config_json);
}

RawTensor& find_tensor(std::vector<RawTensor>& tensors, const std::string& name) {
  for (RawTensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  throw std::runtime_error("no tensor " + name);
}

}  // namespace slidesparse::testing_support
