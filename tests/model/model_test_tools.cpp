#include "model/model_test_tools.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "slidesparse/core/error.h"

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

void expect_tokens_are_checked(
    const ModelConfig& config,
    const std::function<void(const std::vector<std::int32_t>& tokens, std::int64_t length)>& make) {
  const auto message = [&](const std::vector<std::int32_t>& tokens, std::int64_t length) {
    try {
      make(tokens, length);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(message({1, static_cast<std::int32_t>(config.vocab)}, 2),
              ::testing::HasSubstr("is not in the vocabulary"));
  const std::int64_t beyond = config.max_position + 1;
  EXPECT_THAT(message(std::vector<std::int32_t>(static_cast<std::size_t>(beyond), 1), beyond),
              ::testing::HasSubstr("the model's positions"));
  EXPECT_EQ(message({1, 2, 3, 4}, 2), "");
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
