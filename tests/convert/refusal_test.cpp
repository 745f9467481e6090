#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "convert/convert.h"
#include "core/interrupt.h"
#include "slidesparse/core/error.h"
#include "support.h"

namespace slidesparse {
namespace {

using namespace testing_support;
using ::testing::HasSubstr;

class Refusal : public ::testing::Test {
 protected:
  void SetUp() override { make_model(space_ / "in"); }

  // The message; there must be no target afterwards, and the source must be as it was.
  std::string refusal(const ConvertOptions& options) {
    const auto before = snapshot(space_ / "in");
    std::string message = error_of([&] { convert_model(options); });
    EXPECT_EQ(message.find('\n'), std::string::npos);
    EXPECT_EQ(snapshot(space_ / "in"), before);
    return message;
  }
  // The message for a source whose tensors were changed.
  std::string refusal_of(const std::function<void(std::vector<RawTensor>&)>& change) {
    auto tensors = load_tensors(space_ / "in");
    change(tensors);
    save_model(space_ / "bad", read_file(space_ / "in" / "config.json"), tensors);
    std::string message = refusal(options_for(space_ / "bad", space_ / "out"));
    EXPECT_FALSE(std::filesystem::exists(space_ / "out"));
    return message;
  }

  const Workspace space_;
};

TEST_F(Refusal, TargetsThatCannotBe) {
  const auto with_target = [&](const std::filesystem::path& target) {
    return refusal(options_for(space_ / "in", target));
  };
  EXPECT_THAT(with_target(space_ / "in"), HasSubstr("source and target are the same directory"));
  EXPECT_THAT(with_target(space_ / "in/"), HasSubstr("source and target are the same directory"));
  EXPECT_THAT(with_target(space_ / "in/sub"), HasSubstr("lies inside the source"));
  EXPECT_THAT(with_target((space_ / "in").parent_path()), HasSubstr("lies inside the target"));
  EXPECT_THAT(with_target("."), HasSubstr("cannot be the target"));
  EXPECT_THAT(with_target(space_ / "no/such"), HasSubstr("there is no directory"));
  std::filesystem::create_symlink(space_ / "in", space_ / "link");
  EXPECT_THAT(with_target(space_ / "link"), HasSubstr("source and target are the same directory"));
  std::filesystem::create_directory(space_ / "there");
  EXPECT_THAT(with_target(space_ / "there"),
              HasSubstr("exists already; choose another target, or replace it with --force"));
  std::filesystem::create_directory(space_ / "locked");
  ::chmod((space_ / "locked").c_str(), 0555);
  if (::access((space_ / "locked").c_str(), W_OK) != 0) {  // root may write everywhere
    EXPECT_THAT(with_target(space_ / "locked/out"), HasSubstr("Permission denied"));
  }
  EXPECT_THAT(with_target("/proc/slidesparse_out"), HasSubstr("/proc/slidesparse_out"));
}

TEST_F(Refusal, ForceReplacesOnlyWithSomethingComplete) {
  save_model(space_ / "out", "old config", {{"old", DType::kI8, {1}, "x"}});
  ConvertOptions options = options_for(space_ / "in", space_ / "out");
  options.force = true;
  options.skip = {"nothing"};
  EXPECT_NE(refusal(options), "");
  EXPECT_EQ(read_file(space_ / "out/config.json"), "old config");
  options.skip.clear();
  convert_model(options);
  EXPECT_THAT(read_file(space_ / "out/config.json"), HasSubstr("slidesparse"));
  EXPECT_FALSE(std::filesystem::exists(space_ / "out.partial"));
}

TEST_F(Refusal, FullDisk) {
  // The sizes in the header promise more than any disk here has; the file is sparse.
  auto config = small_config();
  config.vocab = 1 << 24;
  config.hidden = 1 << 17;
  config.heads = 1 << 14;
  EXPECT_THAT(error_of([&] { make_model(space_ / "huge", config); }), HasSubstr("the disk is too full"));
  EXPECT_FALSE(std::filesystem::exists(space_ / "huge"));
}

TEST_F(Refusal, WeightsThatAreNotNumbers) {
  for (const std::uint16_t bits : {0x7fc0, 0xff80}) {
    for (const char* name : {"model.layers.1.mlp.gate_proj"}) {
      std::string message = refusal_of([&](auto& tensors) {
        std::memcpy(find_tensor(tensors, std::string(name) + ".weight").bytes.data() + 2 * (40 * 3 + 17),
                    &bits, 2);
      });
      EXPECT_THAT(message,
                  HasSubstr("model.layers.1.mlp.gate_proj.weight: the weight at row 3, column 17 is "));
      std::filesystem::remove_all(space_ / "out.partial");
    }
  }
}

TEST_F(Refusal, TensorsThatDoNotFit) {
  EXPECT_THAT(
      refusal_of([](auto& tensors) {
        tensors.push_back({"model.layers.0.extra", DType::kBF16, {1}, "ab"});
      }),
      HasSubstr(
          "tensor model.layers.0.extra: not a tensor that LlamaForCausalLM has; converting would lose it"));
  EXPECT_THAT(
      refusal_of([](auto& tensors) { find_tensor(tensors, "model.norm.weight").name = "model.norm.bias"; }),
      HasSubstr("model.norm.weight is missing"));
  EXPECT_THAT(refusal_of([](auto& tensors) {
                auto& tensor = find_tensor(tensors, "model.layers.0.mlp.up_proj.weight");
                tensor.dtype = DType::kI16;
              }),
              HasSubstr("expected dtype BF16, F16 or F32, found I16"));
  EXPECT_THAT(refusal_of([](auto& tensors) {
                auto& tensor = find_tensor(tensors, "model.layers.0.mlp.up_proj.weight");
                tensor.shape = {40, 72};
              }),
              HasSubstr("expected shape [72, 40], found [40, 72]"));
}

TEST_F(Refusal, KnownCopiesAreIgnoredButDigested) {
  auto tensors = load_tensors(space_ / "in");
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", DType::kF32, {1}, "abcd"});
  tensors.push_back(
      {"lm_head.weight", DType::kBF16, {300, 40}, find_tensor(tensors, "model.embed_tokens.weight").bytes});
  save_model(space_ / "copy", read_file(space_ / "in" / "config.json"), tensors);
  const ConvertReport with = convert_model(options_for(space_ / "copy", space_ / "a"));
  const ConvertReport without = convert_model(options_for(space_ / "in", space_ / "b"));
  EXPECT_NE(with.source_sha256, without.source_sha256);
  EXPECT_EQ(load_tensors(space_ / "a").size(), load_tensors(space_ / "b").size());
}

TEST_F(Refusal, PackedSourcesAndOptions) {
  convert_model(options_for(space_ / "in", space_ / "packed"));
  EXPECT_THAT(refusal(options_for(space_ / "packed", space_ / "out")), HasSubstr("unpack it first"));
  ConvertOptions options = options_for(space_ / "in", space_ / "out");
  options.head = DType::kF8E4M3;
  EXPECT_THAT(refusal(options), HasSubstr("--head fp8: there are bf16 and int8"));
  options.head = DType::kBF16;
  options.method = PruneMethod::kNone;
  EXPECT_THAT(refusal(options), HasSubstr("6:8 allows 6"));
}

}  // namespace
}  // namespace slidesparse
