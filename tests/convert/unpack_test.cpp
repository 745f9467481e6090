#include "convert/unpack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/json.h"
#include "io/model_directory.h"
#include "quant/weights.h"
#include "support.h"

namespace slidesparse {
namespace {

using namespace testing_support;
using ::testing::HasSubstr;

UnpackOptions unpack_options(const std::filesystem::path& source, const std::filesystem::path& target) {
  UnpackOptions options;
  options.source = source;
  options.target = target;
  options.quiet = true;
  return options;
}

// unpack(convert(m)) is what pruning and quantising the whole matrices gives, byte for byte.
TEST(Unpack, GivesThePrunedAndQuantisedWeights) {
  for (const DType dtype : {DType::kI8, DType::kF8E4M3, DType::kBF16}) {
    const Workspace space;
    make_model(space / "in", small_config(Family::kQwen2, DType::kBF16, false));
    convert_model(options_for(space / "in", space / "packed", "6:8", dtype));
    unpack_model(unpack_options(space / "packed", space / "out"));
    auto in = load_tensors(space / "in");
    auto out = load_tensors(space / "out");
    for (RawTensor& tensor : in) {
      SCOPED_TRACE(tensor.name);
      const RawTensor& got = find_tensor(out, tensor.name);
      EXPECT_EQ(got.shape, tensor.shape);
      if (tensor.name.ends_with("_proj.weight")) {
        const std::int64_t n = tensor.shape[0], k = tensor.shape[1];
        prune_rows(Pattern::parse("6:8"), PruneMethod::kMagnitude, DType::kBF16, tensor.bytes.data(), n, k,
                   k);
        if (dtype != DType::kBF16) {
          std::string codes(static_cast<std::size_t>(n * k), '\0'),
              scale(static_cast<std::size_t>(2 * n), '\0');
          quantise_weight_rows(DType::kBF16, tensor.bytes.data(), n, k, k, dtype, codes.data(), scale.data());
          EXPECT_EQ(find_tensor(out, tensor.name + "_scale").bytes, scale);
          tensor.bytes = codes;
        }
        EXPECT_EQ(got.dtype, dtype);
      }
      EXPECT_TRUE(got.bytes == tensor.bytes);
    }
    const Json config = parse_json(read_file(space / "out" / "config.json"), "config.json");
    EXPECT_FALSE(config.contains("slidesparse"));
    EXPECT_EQ(config.contains("quantization_config"), dtype != DType::kBF16);
    EXPECT_EQ(snapshot(space / "out").count("tokenizer.json"), 1u);
    EXPECT_EQ(snapshot(space / "out").count(kReportFile), 0u);
    // And it converts back to the same packed weights, losing nothing.
    if (dtype == DType::kBF16) continue;
    ConvertOptions again = options_for(space / "out", space / "again", "6:8", dtype);
    again.method = PruneMethod::kNone;
    convert_model(again);
    const auto first = load_tensors(space / "packed");
    const auto second = load_tensors(space / "again");
    ASSERT_EQ(first.size(), second.size());
    for (std::size_t i = 0; i < first.size(); ++i)
      EXPECT_TRUE(first[i].bytes == second[i].bytes) << first[i].name;
  }
}

TEST(Unpack, Int8HeadBecomesALinearOfItsOwn) {
  const Workspace space;
  make_model(space / "in");
  ConvertOptions options = options_for(space / "in", space / "packed", "2:4", DType::kI8);
  options.head = DType::kI8;
  convert_model(options);
  unpack_model(unpack_options(space / "packed", space / "out"));
  auto packed = load_tensors(space / "packed");
  auto out = load_tensors(space / "out");
  EXPECT_EQ(find_tensor(out, "lm_head.weight").bytes, find_tensor(packed, "lm_head.values").bytes);
  EXPECT_EQ(find_tensor(out, "lm_head.weight_scale").bytes, find_tensor(packed, "lm_head.scale").bytes);
  const Json config = parse_json(read_file(space / "out" / "config.json"), "config.json");
  EXPECT_EQ(config.at("tie_word_embeddings"), false);
  EXPECT_TRUE(config.at("quantization_config").at("ignore").empty());

  options.target = space / "fp8";
  options.dtype = DType::kF8E4M3;
  convert_model(options);
  EXPECT_THAT(error_of([&] { unpack_model(unpack_options(space / "fp8", space / "no")); }),
              HasSubstr("an INT8 head beside F8_E4M3 linears has no standard form"));
}

TEST(Unpack, RefusesWhatIsNotPackedAndWhatIsDamaged) {
  const Workspace space;
  make_model(space / "in");
  EXPECT_THAT(error_of([&] { unpack_model(unpack_options(space / "in", space / "out")); }),
              HasSubstr("not a packed directory"));
  convert_model(options_for(space / "in", space / "packed"));
  auto tensors = load_tensors(space / "packed");
  find_tensor(tensors, "model.layers.1.mlp.down_proj.codes").bytes[5] = static_cast<char>(0xff);
  save_model(space / "bad", read_file(space / "packed" / "config.json"), tensors);
  EXPECT_THAT(error_of([&] { unpack_model(unpack_options(space / "bad", space / "out")); }),
              HasSubstr("model.layers.1.mlp.down_proj"));
  EXPECT_FALSE(std::filesystem::exists(space / "out"));
}

}  // namespace
}  // namespace slidesparse
