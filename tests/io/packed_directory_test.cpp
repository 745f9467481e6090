#include "io/packed_directory.h"

#include <gmock/gmock.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/numeric.h"
#include "core/random.h"
#include "test_files.h"

namespace slidesparse::testing {
namespace {

using ::testing::HasSubstr;

PackedInfo sample_info() {
  PackedInfo info;
  info.pattern = Pattern::parse("6:8");
  info.dtype = DType::kI8;
  info.source_sha256 = std::string(64, 'a');
  info.tool_version = "0.1.0";
  info.exceptions["model.layers.1.mlp.up_proj"] = {Pattern(), PackedLayout::kSlide, "skipped: *.1.mlp.*"};
  return info;
}

constexpr const char* kConfig =
    R"({"zeta": 1e-05, "architectures": ["LlamaForCausalLM"], "quantization_config": {"a": 1}, "hidden_size": 576, "rope_theta": 100000.0})";

TEST(PackedInfo, SectionRoundTrip) {
  PackedInfo info = sample_info();
  info.method = "magnitude";
  info.calibration = "none \xc3\xa9";
  info.head = DType::kI8;
  info.layout = PackedLayout::kSplit;
  info.dtype = DType::kF8E4M3;
  const std::string text = config_with_packed_info(kConfig, info);
  const auto parsed = parse_packed_info(text, "config.json");
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->pattern, info.pattern);
  EXPECT_EQ(parsed->layout, info.layout);
  EXPECT_EQ(parsed->dtype, info.dtype);
  EXPECT_EQ(parsed->method, info.method);
  EXPECT_EQ(parsed->calibration, info.calibration);
  EXPECT_EQ(parsed->head, info.head);
  EXPECT_EQ(parsed->source_sha256, info.source_sha256);
  EXPECT_EQ(parsed->tool_version, info.tool_version);
  ASSERT_EQ(parsed->exceptions.size(), 1u);
  EXPECT_TRUE(parsed->exceptions.begin()->second.pattern.is_dense());
  EXPECT_EQ(parsed->exceptions.begin()->second.reason, "skipped: *.1.mlp.*");
  EXPECT_TRUE(parsed->pattern_of("model.layers.1.mlp.up_proj").is_dense());
  EXPECT_EQ(parsed->layout_of("model.layers.1.mlp.up_proj"), PackedLayout::kSlide);
  EXPECT_EQ(parsed->pattern_of("model.layers.0.mlp.up_proj").to_string(), "6:8");
  EXPECT_EQ(parsed->layout_of("model.layers.0.mlp.up_proj"), PackedLayout::kSplit);
  EXPECT_TRUE(parsed->pattern_of("lm_head").is_dense());
}

TEST(PackedInfo, TextIsDeterministicAndKeepsTheOrder) {
  const std::string text = config_with_packed_info(kConfig, sample_info());
  EXPECT_EQ(text, config_with_packed_info(kConfig, sample_info()));
  EXPECT_EQ(text, config_with_packed_info(text, sample_info()));
  EXPECT_EQ(text,
            "{\n  \"zeta\": 1e-05,\n  \"architectures\": [\n    \"LlamaForCausalLM\"\n  ],\n  "
            "\"hidden_size\": 576,\n"
            "  \"rope_theta\": 100000.0,\n  \"slidesparse\": {\n    \"format_version\": 1,\n    \"pattern\": "
            "\"6:8\",\n"
            "    \"layout\": \"slide\",\n    \"dtype\": \"I8\",\n    \"method\": \"magnitude\",\n    "
            "\"calibration\": \"\",\n"
            "    \"head\": \"bf16\",\n    \"source_sha256\": \"" +
                std::string(64, 'a') +
                "\",\n    \"tool_version\": \"0.1.0\",\n    \"exceptions\": {\n      "
                "\"model.layers.1.mlp.up_proj\": {\n"
                "        \"pattern\": \"dense\",\n        \"layout\": \"slide\",\n        \"reason\": "
                "\"skipped: *.1.mlp.*\"\n      }\n    }\n  }\n}\n");
}

TEST(PackedInfo, OrdinaryDirectoriesHaveNone) {
  EXPECT_EQ(parse_packed_info(kConfig, "config.json"), std::nullopt);
  EXPECT_THAT(error_of([] { parse_packed_info("[]", "config.json"); }), HasSubstr("expected an object"));
  EXPECT_THAT(error_of([] { config_with_packed_info("[]", {}); }), HasSubstr("expected an object"));
}

TEST(PackedInfo, RefusesDamage) {
  const std::string good = config_with_packed_info("{}", sample_info());
  const auto broken = [&](const std::string& pointer, const nlohmann::json& value) {
    nlohmann::json config = nlohmann::json::parse(good);
    config[nlohmann::json::json_pointer("/slidesparse" + pointer)] = value;
    return error_of([&] { parse_packed_info(config.dump(), "config.json"); });
  };
  EXPECT_THAT(broken("/format_version", 2), HasSubstr("format version 2, this program reads version 1"));
  EXPECT_THAT(broken("/format_version", 1.0), HasSubstr("\"format_version\" must be an integer"));
  EXPECT_THAT(broken("/pattern", "2:8"), HasSubstr("config.json: slidesparse: pattern: "));
  EXPECT_THAT(broken("/pattern", 7), HasSubstr("must be a string"));
  EXPECT_THAT(broken("/layout", "diagonal"), HasSubstr("found \"diagonal\""));
  EXPECT_THAT(broken("/dtype", "F32"), HasSubstr("dtype must be I8, F8_E4M3 or BF16, found \"F32\""));
  EXPECT_THAT(broken("/head", "int4"), HasSubstr("head must be"));
  EXPECT_THAT(broken("/source_sha256", "abc"), HasSubstr("64 lower-case hex digits"));
  EXPECT_THAT(broken("/method", std::string(5000, 'x')), HasSubstr("has 5000 bytes, at most 4096"));
  EXPECT_THAT(broken("/surprise", 1), HasSubstr("unknown key \"surprise\" in format version 1"));
  EXPECT_THAT(broken("/exceptions", nlohmann::json::array()), HasSubstr("\"exceptions\" must be an object"));
  EXPECT_THAT(broken("/exceptions/x", nlohmann::json::object()),
              HasSubstr("exceptions: x: key \"pattern\" is missing"));
  EXPECT_THAT(broken("/exceptions/x", 3), HasSubstr("exceptions: x: expected an object"));
  EXPECT_THAT(broken("/exceptions/x", {{"pattern", "dense"}, {"layout", "split"}, {"reason", ""}}),
              HasSubstr("layout split needs a pattern"));
  EXPECT_THAT(broken("", 5), HasSubstr("\"slidesparse\" must be an object"));
}

// A directory with one packed linear "w" [n, k], whose tensors a test may replace.
class PackedLinearTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t kRows = 5;

  void make(const char* pattern, DType dtype, std::int64_t k) {
    info_ = PackedInfo{};
    info_.pattern = Pattern::parse(pattern);
    info_.dtype = dtype;
    k_ = k;
    dense_.assign(static_cast<std::size_t>(kRows * k) * dtype_size(dtype), '\0');
    // Every other lane is non-zero: obeys each pattern.
    for (std::int64_t i = 0; i < kRows * k; i += 2) {
      if (dtype == DType::kBF16) {
        const std::uint16_t value = float_to_bf16(1.0f + static_cast<float>(i % 7));
        std::memcpy(&dense_[static_cast<std::size_t>(2 * i)], &value, 2);
      } else {
        dense_[static_cast<std::size_t>(i)] = static_cast<char>(1 + i % 100);
      }
    }
    std::string values(static_cast<std::size_t>(kRows * info_.pattern.values_per_row(k)) * dtype_size(dtype),
                       '\0');
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(kRows * info_.pattern.code_bytes_per_row(k)) +
                                    1);
    pack_rows(info_.pattern, dtype, dense_.data(), kRows, k, k, values.data(), codes.data());
    codes.pop_back();
    set("w.values", dtype, Shape{kRows, info_.pattern.values_per_row(k)}, values);
    if (!info_.pattern.is_dense())
      set("w.codes", DType::kU8, Shape{kRows, info_.pattern.code_bytes_per_row(k)}, bytes_of(codes));
    if (dtype != DType::kBF16) set_scale(std::vector<float>(kRows, 0.5f));
  }
  void set(const std::string& name, DType dtype, const Shape& shape, const std::string& data) {
    tensors_[name] = {name, dtype, shape, data};
  }
  void set_scale(const std::vector<float>& values) {
    set("w.scale", DType::kF32, Shape{kRows, 1}, bytes_of(values));
  }
  ModelDirectory open() {
    std::vector<TestTensor> tensors;
    for (const auto& [name, tensor] : tensors_) tensors.push_back(tensor);
    write_text(dir_ / "config.json", config_with_packed_info("{}", info_));
    write_text(dir_ / "model.safetensors", safetensors_text(tensors));
    return ModelDirectory(dir_.path());
  }
  std::string read_error() {
    const ModelDirectory directory = open();
    return error_of([&] { read_packed_linear(directory, info_, "w", kRows, k_, "p"); });
  }
  std::string validate_error() {
    const ModelDirectory directory = open();
    const PackedLinear linear = read_packed_linear(directory, info_, "w", kRows, k_, "p");
    return error_of([&] { validate_packed_linear(linear); });
  }

  TempDir dir_;
  PackedInfo info_;
  std::int64_t k_ = 0;
  std::string dense_;
  std::map<std::string, TestTensor> tensors_;
};

TEST_F(PackedLinearTest, ReadsAndUnpacks) {
  for (const char* pattern : {"dense", "2:4", "4:6", "6:8", "8:10", "14:16"}) {
    for (const DType dtype : {DType::kI8, DType::kF8E4M3, DType::kBF16}) {
      for (const std::int64_t k : {1, 7, 9, 64, 83}) {
        tensors_.clear();
        make(pattern, dtype, k);
        const ModelDirectory directory = open();
        const PackedLinear linear = read_packed_linear(directory, info_, "w", kRows, k, "");
        EXPECT_EQ(linear.scale.has_value(), dtype != DType::kBF16);
        EXPECT_EQ(linear.codes == nullptr, info_.pattern.is_dense());
        validate_packed_linear(linear);
        std::string out(dense_.size(), 'x');
        unpack_rows(linear.view(), 0, kRows, out.data(), k);
        EXPECT_EQ(out, dense_) << pattern << " " << dtype_name(dtype) << " " << k;
      }
    }
  }
}

TEST_F(PackedLinearTest, SizesAndTypesAreChecked) {
  make("6:8", DType::kI8, 64);
  const auto saved = tensors_;
  set("w.values", DType::kI8, Shape{kRows, 47}, std::string(kRows * 47, '\0'));
  EXPECT_THAT(read_error(),
              HasSubstr("model.safetensors: tensor w.values: expected shape [5, 48], found [5, 47]"));
  set("w.values", DType::kU8, Shape{kRows, 48}, std::string(kRows * 48, '\0'));
  EXPECT_THAT(read_error(), HasSubstr("tensor w.values: expected dtype I8, found U8"));
  tensors_ = saved;
  tensors_.erase("w.codes");
  EXPECT_THAT(read_error(), HasSubstr("tensor w.codes is missing"));
  tensors_ = saved;
  set("w.codes", DType::kU8, Shape{kRows * 5}, std::string(kRows * 5, '\0'));
  EXPECT_THAT(read_error(), HasSubstr("tensor w.codes: expected shape [5, 5], found [25]"));
  tensors_ = saved;
  set("w.scale", DType::kI8, Shape{kRows, 1}, std::string(kRows, '\1'));
  EXPECT_THAT(read_error(), HasSubstr("tensor w.scale: expected dtype BF16, F16 or F32, found I8"));
  tensors_.erase("w.scale");
  EXPECT_THAT(read_error(), HasSubstr("tensor w.scale is missing"));
}

TEST_F(PackedLinearTest, TensorsThatDoNotBelongAreRefused) {
  make("dense", DType::kI8, 64);
  set("w.codes", DType::kU8, Shape{1}, "x");
  EXPECT_THAT(read_error(), HasSubstr("tensor w.codes is there, but the linear is dense"));
  tensors_.clear();
  make("6:8", DType::kBF16, 64);
  set_scale(std::vector<float>(kRows, 1.0f));
  EXPECT_THAT(read_error(), HasSubstr("tensor w.scale is there, but BF16 weights have no scale"));
}

TEST_F(PackedLinearTest, ExceptionsAreDenseOfTheSameType) {
  make("dense", DType::kF8E4M3, 64);
  info_.pattern = Pattern::parse("6:8");
  info_.exceptions["w"] = {Pattern(), PackedLayout::kSlide, "skipped"};
  const ModelDirectory directory = open();
  const PackedLinear linear = read_packed_linear(directory, info_, "w", kRows, k_, "");
  EXPECT_TRUE(linear.pattern.is_dense());
  EXPECT_EQ(linear.dtype, DType::kF8E4M3);
  validate_packed_linear(linear);
}

TEST_F(PackedLinearTest, HeadIsDenseInt8) {
  make("dense", DType::kI8, 64);
  for (const char* part : {".values", ".scale"}) {
    TestTensor tensor = tensors_.at(std::string("w") + part);
    tensor.name = std::string("lm_head") + part;
    tensors_[tensor.name] = tensor;
  }
  info_.pattern = Pattern::parse("6:8");
  info_.dtype = DType::kF8E4M3;
  info_.head = DType::kI8;
  const ModelDirectory directory = open();
  const PackedLinear head = read_packed_linear(directory, info_, "lm_head", kRows, k_, "");
  EXPECT_EQ(head.dtype, DType::kI8);
  EXPECT_TRUE(head.pattern.is_dense());
  validate_packed_linear(head);
}

TEST_F(PackedLinearTest, ValidateFindsBadCodes) {
  make("6:8", DType::kI8, 64);
  tensors_["w.codes"].data[7] = '\xff';  // the upper four bits of row 1, group 3
  EXPECT_THAT(validate_error(), HasSubstr("w: row 1, group 3: code 30"));
}

TEST_F(PackedLinearTest, ValidateFindsBadScales) {
  make("6:8", DType::kI8, 64);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -1.0f, -0.0f, 0.0f}) {
    std::vector<float> scales(kRows, 1.0f);
    scales[3] = bad;
    set_scale(scales);
    EXPECT_THAT(validate_error(), HasSubstr("tensor w.scale: row 3")) << bad;
  }
  std::fill_n(tensors_["w.values"].data.begin() + 3 * 48, 48, '\0');
  set_scale({1, 1, 1, 0, 1});
  const ModelDirectory directory = open();
  EXPECT_NO_THROW(validate_packed_linear(read_packed_linear(directory, info_, "w", kRows, k_, "")));
}

TEST_F(PackedLinearTest, ValidateFindsNaN) {
  make("6:8", DType::kF8E4M3, 64);
  tensors_["w.values"].data[48 * 2 + 5] = '\xff';
  EXPECT_THAT(validate_error(), HasSubstr("tensor w.values: row 2, column 5 is not a finite number"));
  tensors_.clear();
  make("6:8", DType::kBF16, 64);
  tensors_["w.values"].data[2 * (48 * 4 + 1)] = '\x80';
  tensors_["w.values"].data[2 * (48 * 4 + 1) + 1] = '\x7f';
  EXPECT_THAT(validate_error(), HasSubstr("tensor w.values: row 4, column 1 is not a finite number"));
}

TEST_F(PackedLinearTest, SplitLayout) {
  const std::int64_t k = 192;
  const SplitShape shape = split_shape(Pattern::parse("6:8"), k);
  ASSERT_GT(shape.sparse, 0);
  ASSERT_GT(shape.dense, 0);
  make("6:8", DType::kI8, k);
  info_.layout = PackedLayout::kSplit;
  std::vector<std::int32_t> perm(static_cast<std::size_t>(k));
  std::iota(perm.begin(), perm.end(), 0);
  std::rotate(perm.begin(), perm.begin() + 10, perm.begin() + shape.sparse);
  std::string values(static_cast<std::size_t>(kRows * shape.values_per_row()), '\0');
  std::string codes(static_cast<std::size_t>(kRows * shape.code_bytes_per_row()), '\0');
  split_pack_rows(shape, perm, DType::kI8, dense_.data(), kRows, k, values.data(),
                  reinterpret_cast<std::uint8_t*>(codes.data()));
  set("w.values", DType::kI8, Shape{kRows, shape.values_per_row()}, values);
  set("w.codes", DType::kU8, Shape{kRows, shape.code_bytes_per_row()}, codes);
  EXPECT_THAT(read_error(), HasSubstr("tensor p is missing"));
  set("p", DType::kI32, Shape{k}, bytes_of(perm));
  {
    const ModelDirectory directory = open();
    const PackedLinear linear = read_packed_linear(directory, info_, "w", kRows, k, "p");
    validate_packed_linear(linear);
    std::string out(dense_.size(), 'x');
    split_unpack_rows(shape, linear.perm, DType::kI8, linear.values, linear.codes, kRows, out.data(), k);
    EXPECT_EQ(out, dense_);
  }
  tensors_["w.codes"].data[static_cast<std::size_t>(2 * shape.code_bytes_per_row())] = '\x07';
  EXPECT_THAT(validate_error(), HasSubstr("tensor w.codes: row 2, quad 0: code 7 names no pair"));
  perm[1] = perm[0];
  set("p", DType::kI32, Shape{k}, bytes_of(perm));
  EXPECT_THAT(validate_error(), HasSubstr("w (permutation)"));
}

}  // namespace
}  // namespace slidesparse::testing
