#include "io/model_directory.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <chrono>

#include "io/journal.h"
#include "test_files.h"

namespace slidesparse::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ModelDirectoryTest : public ::testing::Test {
 protected:
  void write_single() {
    write_text(dir_ / "config.json", "{}");
    write_text(
        dir_ / "model.safetensors",
        safetensors_text({{"b", DType::kI8, Shape{3}, "xyz"},
                          {"a", DType::kBF16, Shape{2, 1}, bytes_of<std::uint16_t>({0x3f80, 0x4000})}}));
  }
  void write_shards() {
    write_text(dir_ / "config.json", "{}");
    write_text(dir_ / "model-00001-of-00002.safetensors",
               safetensors_text({{"a", DType::kI8, Shape{3}, "aaa"}}));
    write_text(dir_ / "model-00002-of-00002.safetensors",
               safetensors_text({{"b", DType::kI8, Shape{2}, "bb"}, {"c", DType::kI8, Shape{1}, "c"}}));
    write_index(
        R"("a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors","c":"model-00002-of-00002.safetensors")");
  }
  void write_index(const std::string& map) {
    write_text(dir_ / "model.safetensors.index.json",
               R"({"metadata":{"total_size":6},"weight_map":{)" + map + "}}");
  }
  std::string open_error() {
    return error_of([&] { ModelDirectory directory(dir_.path()); });
  }

  TempDir dir_;
};

TEST_F(ModelDirectoryTest, SingleFile) {
  write_single();
  const ModelDirectory directory(dir_.path());
  ASSERT_EQ(directory.tensors().size(), 2u);
  EXPECT_EQ(directory.tensors()[0].name, "a");
  const TensorView a = directory.tensor("a", Shape{2, 1});
  EXPECT_EQ(a.dtype, DType::kBF16);
  EXPECT_EQ(a.as<const std::uint16_t>()[1], 0x4000);
  EXPECT_EQ(std::memcmp(directory.tensor("b").data, "xyz", 3), 0);
  EXPECT_TRUE(directory.contains("a"));
  EXPECT_FALSE(directory.contains("ab"));
  EXPECT_EQ(directory.find("ab"), std::nullopt);
  EXPECT_EQ(directory.total_tensor_bytes(), 7);
  EXPECT_EQ(directory.file_of("a"), "model.safetensors");
  directory.prefetch("a");
  directory.release("a");
  EXPECT_EQ(a.as<const std::uint16_t>()[0], 0x3f80);
  EXPECT_THAT(error_of([&] {
                directory.tensor("a", Shape{1, 2});
              }),
              HasSubstr("model.safetensors: tensor a: expected shape [1, 2], found [2, 1]"));
  EXPECT_THAT(error_of([&] { directory.tensor("zz"); }),
              HasSubstr("tensor zz is missing (the directory holds 2 tensors)"));
}

TEST_F(ModelDirectoryTest, Shards) {
  write_shards();
  ModelDirectory opened(dir_.path());
  const ModelDirectory directory = std::move(opened);
  EXPECT_EQ(directory.tensors().size(), 3u);
  EXPECT_EQ(directory.file_of("a"), "model-00001-of-00002.safetensors");
  EXPECT_EQ(directory.file_of("c"), "model-00002-of-00002.safetensors");
  EXPECT_EQ(std::memcmp(directory.tensor("b").data, "bb", 2), 0);
}

TEST_F(ModelDirectoryTest, IndexAndShardsMustAgree) {
  write_shards();
  write_index(R"("a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors")");
  EXPECT_THAT(
      open_error(),
      HasSubstr("tensor c of model-00002-of-00002.safetensors is missing in model.safetensors.index.json"));
  write_index(
      R"("a":"model-00002-of-00002.safetensors","b":"model-00002-of-00002.safetensors","c":"model-00002-of-00002.safetensors")");
  EXPECT_THAT(open_error(),
              HasSubstr("tensor a is in model-00002-of-00002.safetensors, which does not hold it"));
  write_index(
      R"("a":"model-00001-of-00002.safetensors","b":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors")");
  EXPECT_THAT(open_error(),
              HasSubstr("tensor b is in model-00001-of-00002.safetensors, it is in model-00002"));
  write_index(R"("a":"model-00003-of-00002.safetensors")");
  EXPECT_THAT(
      open_error(),
      HasSubstr("shard model-00003-of-00002.safetensors that model.safetensors.index.json names is missing"));
  write_shards();
  write_text(dir_ / "model-00001-of-00002.safetensors",
             safetensors_text({{"b", DType::kI8, Shape{3}, "aaa"}}));
  EXPECT_THAT(open_error(), HasSubstr("tensor b stands in both model-0000"));
}

TEST_F(ModelDirectoryTest, ShardNamesAreNoPaths) {
  write_shards();
  for (const char* name : {"../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..", "",
                           ".x.safetensors", "x.bin", "a\\\\x.safetensors", "a\\u0000.safetensors"}) {
    write_index(std::string("\"a\":\"") + name + "\"");
    EXPECT_THAT(open_error(), HasSubstr("tensor a: shard name")) << name;
  }
  write_index("\"a\":7");
  EXPECT_THAT(open_error(), HasSubstr("\"a\" must be a string"));
  write_index("");
  EXPECT_THAT(open_error(), HasSubstr("names no tensor"));
  write_text(dir_ / "model.safetensors.index.json", "{}");
  EXPECT_THAT(open_error(), HasSubstr("\"weight_map\" is missing"));
  write_text(dir_ / "model.safetensors.index.json",
             R"({"weight_map":{"a":"x.safetensors","a":"x.safetensors"}})");
  EXPECT_THAT(open_error(), HasSubstr("stands twice"));
}

TEST_F(ModelDirectoryTest, UnfinishedDirectoriesDoNotOpen) {
  EXPECT_THAT(error_of([&] { ModelDirectory directory(dir_ / "none"); }), HasSubstr("no such directory"));
  EXPECT_THAT(open_error(), HasSubstr("no config.json"));
  write_text(dir_ / "config.json", "{}");
  EXPECT_THAT(open_error(), HasSubstr("neither model.safetensors nor model.safetensors.index.json"));
  write_single();
  EXPECT_NO_THROW(ModelDirectory{dir_.path()});
  write_text(dir_ / kJournalName, "");
  EXPECT_THAT(
      open_error(),
      HasSubstr("an unfinished conversion (slidesparse.journal is there): run the same command again"));
  fs::remove(dir_ / kJournalName);
  write_index(R"("a":"model.safetensors")");
  EXPECT_THAT(open_error(), HasSubstr("both model.safetensors and model.safetensors.index.json"));
  EXPECT_THAT(error_of([&] { ModelDirectory directory(dir_ / "config.json"); }),
              HasSubstr("not a directory"));
}

// The Hub's cache: snapshots/REV/FILE -> ../../blobs/HASH.
TEST_F(ModelDirectoryTest, LinksToFilesAreFollowed) {
  write_single();
  fs::create_directories(dir_ / "snapshots");
  fs::create_directories(dir_ / "blobs");
  for (const char* name : {"config.json", "model.safetensors"}) {
    fs::rename(dir_ / name, dir_.path() / "blobs" / name);
    fs::create_symlink(std::string("../blobs/") + name, dir_.path() / "snapshots" / name);
  }
  const fs::path snapshot = dir_ / "snapshots";
  EXPECT_EQ(ModelDirectory(snapshot).tensors().size(), 2u);
  fs::remove(dir_.path() / "blobs" / "model.safetensors");
  EXPECT_THAT(error_of([&] { ModelDirectory directory(snapshot); }),
              HasSubstr("model.safetensors: a link that leads nowhere (../blobs/model.safetensors)"));
  fs::create_directory(dir_.path() / "blobs" / "model.safetensors");
  EXPECT_THAT(error_of([&] { ModelDirectory directory(snapshot); }),
              HasSubstr("expected a file, found a link to a directory"));
  fs::remove(snapshot / "model.safetensors");
  ASSERT_EQ(::mkfifo((snapshot / "model.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { ModelDirectory directory(snapshot); }), HasSubstr("no regular file"));
}

TEST_F(ModelDirectoryTest, MisalignedTensorsAreRefused) {
  write_single();
  const std::string json =
      R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[1,3]}} )";
  write_text(dir_ / "model.safetensors", with_length(json) + "abc");
  EXPECT_THAT(open_error(), HasSubstr("not a multiple of 2; save the file again"));
}

TEST_F(ModelDirectoryTest, CutOffFilesAreRefused) {
  write_single();
  const std::string whole = read_text(dir_ / "model.safetensors");
  for (std::size_t length = 0; length < whole.size(); ++length) {
    write_text(dir_ / "model.safetensors", whole.substr(0, length));
    ASSERT_THAT(open_error(), HasSubstr("model.safetensors: ")) << length;
  }
}

TEST_F(ModelDirectoryTest, SideFiles) {
  write_shards();
  for (const char* name : {"tokenizer.json", "generation_config.json", ".gitattributes", "pytorch_model.bin",
                           "README.md", "config.json.tmp"}) {
    write_text(dir_ / name, "{}");
  }
  fs::create_directory(dir_ / "onnx");
  fs::create_symlink("nowhere", dir_ / "vocab.json");
  fs::create_symlink("tokenizer.json", dir_ / "linked.json");
  EXPECT_THAT(ModelDirectory(dir_.path()).side_files(),
              ElementsAre("README.md", "generation_config.json", "linked.json", "tokenizer.json"));
}

// Opening reads headers only. The bound is loose (debug and sanitizer builds, busy machines);
// docs/measurements.md has the figure.
TEST_F(ModelDirectoryTest, OpensAThousandTensorsQuickly) {
  write_text(dir_ / "config.json", "{}");
  std::vector<TestTensor> tensors;
  tensors.reserve(1000);
  for (int i = 0; i < 1000; ++i) {
    tensors.push_back({"model.layers." + std::to_string(i) + ".mlp.up_proj.weight", DType::kBF16, Shape{2, 2},
                       std::string(8, 'x')});
  }
  write_text(dir_ / "model.safetensors", safetensors_text(tensors));
  const auto start = std::chrono::steady_clock::now();
  const ModelDirectory directory(dir_.path());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_EQ(directory.tensors().size(), 1000u);
  EXPECT_LT(seconds, 1.0);
  RecordProperty("microseconds", static_cast<int>(seconds * 1e6));
}

}  // namespace
}  // namespace slidesparse::testing
