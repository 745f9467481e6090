#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "convert/calibrated_run.h"
#include "convert/convert.h"
#include "convert/unpack.h"
#include "core/numeric.h"
#include "io/model_directory.h"
#include "io/packed_directory.h"
#include "model/weights.h"
#include "prune/group_prune.h"
#include "support.h"

namespace slidesparse {
namespace {

using namespace testing_support;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

// Wide enough for sparse channels in every linear.
ModelConfig wide_config(DType dtype = DType::kBF16) {
  ModelConfig config = small_config(Family::kQwen3, dtype);
  config.hidden = 136;
  config.intermediate = 200;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 40;
  return config;
}

class Calibrated : public ::testing::Test {
 protected:
  void SetUp() override {
    make_model(space_ / "in", wide_config());
    std::string text;
    for (int i = 0; i < 400; ++i) text += "Sentence " + std::to_string(i * i) + " is not like the others. ";
    write_file(space_ / "text", text);
  }

  ConvertOptions options(PruneMethod method, const char* pattern, PackedLayout layout,
                         const std::string& target = "out", DType dtype = DType::kF8E4M3) const {
    ConvertOptions result = options_for(space_ / "in", space_ / target, pattern, dtype);
    result.quiet = true;
    result.method = method;
    result.layout = layout;
    if (needs_calibration(method)) {
      result.calibration.text = (space_ / "text").string();
      result.calibration.samples = 5;
      result.calibration.sample_length = 32;
    }
    return result;
  }

  PackedInfo info_of(const std::string& target) const {
    const ModelDirectory directory(space_ / target);
    return *parse_packed_info(directory.config_text(), "config.json");
  }

  const Workspace space_;
};

// Every directory passes the full check, is smaller where it should be, and comes back by `unpack`.
TEST_F(Calibrated, EveryMethodAndLayoutGivesASoundDirectory) {
  for (const PruneMethod method : {PruneMethod::kMagnitude, PruneMethod::kWanda, PruneMethod::kSparseGpt}) {
    for (const PackedLayout layout : {PackedLayout::kSlide, PackedLayout::kSplit}) {
      for (const char* pattern : {"2:4", "6:8", "14:16"}) {
        for (const DType dtype : {DType::kI8, DType::kF8E4M3, DType::kBF16}) {
          SCOPED_TRACE(testing::Message() << prune_method_name(method) << " " << packed_layout_name(layout)
                                          << " " << pattern << " " << dtype_name(dtype));
          const ConvertOptions options = this->options(method, pattern, layout, "out", dtype);
          const ConvertReport report = convert_model(options);
          const PackedInfo info = info_of("out");
          EXPECT_EQ(info.layout, layout);
          EXPECT_EQ(info.method, prune_method_name(method));
          EXPECT_EQ(info.calibration.empty(), !needs_calibration(method));
          for (const LayerReport& layer : report.layers) {
            EXPECT_EQ(layer.layout, layout);
            EXPECT_EQ(layer.error < 0, !needs_calibration(method)) << layer.name;
            EXPECT_LE(layer.error, layer.error_masked) << layer.name;
            // The narrowest linears have no 64 channels to spare for 14:16.
            const bool some =
                layout == PackedLayout::kSlide || split_shape(layer.pattern, layer.k).sparse > 0;
            EXPECT_EQ(layer.prune.pruned > 0, some) << layer.name;
          }
          const ModelDirectory directory(space_ / "out");
          for (const FusedGroup& group : weight_table(wide_config()).groups) {
            for (const LinearSpec& spec : group.members) {
              validate_packed_linear(
                  read_packed_linear(directory, info, spec.name, spec.n, spec.k, group.perm_name));
            }
          }
          unpack_model({space_ / "out", space_ / "back", false, true});
          fs::remove_all(space_ / "out");
          fs::remove_all(space_ / "back");
        }
      }
    }
  }
}

// The first group's weights, pruned by prune_group() with moments from the statistics, are those on disk.
TEST_F(Calibrated, WritesWhatPruneGroupGives) {
  ConvertOptions options =
      this->options(PruneMethod::kSparseGpt, "6:8", PackedLayout::kSplit, "out", DType::kBF16);
  options.statistics = space_ / "statistics";
  convert_model(options);
  auto in = load_tensors(space_ / "in");
  const FusedGroup group = weight_table(wide_config()).groups.front();
  const std::int64_t k = group.members.front().k;
  std::vector<float> w;
  for (const LinearSpec& member : group.members) {
    const std::string& bytes = find_tensor(in, member.name + ".weight").bytes;
    const auto* bits = reinterpret_cast<const std::uint16_t*>(bytes.data());
    for (std::int64_t i = 0; i < member.n * k; ++i) w.push_back(bf16_to_float(bits[i]));
  }
  const ModelDirectory source(space_ / "in");
  const StatisticsReader statistics(space_ / "statistics",
                                    model_fingerprint(source, weight_table(wide_config())));
  EXPECT_TRUE(statistics.origin().full);
  LinearTask task;
  task.pattern = options.pattern;
  task.layout = options.layout;
  std::vector<float> moments = statistics.read(group, true);
  const GroupPruneResult result = prune_group(group_prune(options, task), w.data(),
                                              static_cast<std::int64_t>(w.size()) / k, k, moments, "group");
  auto out = load_tensors(space_ / "out");
  const std::string& perm = find_tensor(out, group.perm_name).bytes;
  ASSERT_EQ(perm.size(), 4 * result.perm.size());
  EXPECT_EQ(std::memcmp(perm.data(), result.perm.data(), perm.size()), 0);
  const ModelDirectory packed(space_ / "out");
  std::size_t first = 0;
  for (const LinearSpec& member : group.members) {
    const PackedLinear linear =
        read_packed_linear(packed, info_of("out"), member.name, member.n, k, group.perm_name);
    std::vector<std::uint16_t> got(static_cast<std::size_t>(member.n * k));
    split_unpack_rows(split_shape(linear.pattern, k), linear.perm, DType::kBF16, linear.values, linear.codes,
                      member.n, got.data(), k);
    for (std::size_t i = 0; i < got.size(); ++i)
      ASSERT_EQ(bf16_to_float(got[i]), bf16_to_float(float_to_bf16(w[first + i])));
    first += got.size();
  }
}

// Along the same statistics: the same weights, other codes. It is what SparseGPT does unasked.
TEST_F(Calibrated, GptqChoosesOtherCodes) {
  for (const PackedLayout layout : {PackedLayout::kSlide, PackedLayout::kSplit}) {
    SCOPED_TRACE(packed_layout_name(layout));
    const std::string name(packed_layout_name(layout));
    ConvertOptions options = this->options(PruneMethod::kSparseGpt, "6:8", layout, name + "-nearest");
    options.gptq = false;
    options.statistics = space_ / (name + "-statistics");
    const ConvertReport nearest = convert_model(options);
    options.target = space_ / (name + "-gptq");
    options.gptq.reset();
    const ConvertReport gptq = convert_model(options);
    EXPECT_THAT(info_of(name + "-gptq").calibration, HasSubstr("; codes by gptq"));
    EXPECT_EQ(info_of(name + "-nearest").calibration.find("gptq"), std::string::npos);
    ASSERT_EQ(gptq.layers.size(), nearest.layers.size());
    for (std::size_t i = 0; i < gptq.layers.size(); ++i) {
      EXPECT_EQ(gptq.layers[i].error_masked, nearest.layers[i].error_masked);
      EXPECT_EQ(gptq.layers[i].error, nearest.layers[i].error);
    }
    unpack_model({space_ / (name + "-nearest"), space_ / (name + "-1"), false, true});
    unpack_model({space_ / (name + "-gptq"), space_ / (name + "-2"), false, true});
    auto one = load_tensors(space_ / (name + "-1")), two = load_tensors(space_ / (name + "-2"));
    const std::string linear = "model.layers.0.mlp.down_proj.weight";
    const std::string &a = find_tensor(one, linear).bytes, &b = find_tensor(two, linear).bytes;
    ASSERT_EQ(a.size(), b.size());
    std::size_t moved = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      if ((a[i] & 0x7f) == 0 || (b[i] & 0x7f) == 0) continue;
      moved += a[i] != b[i] ? 1 : 0;
    }
    EXPECT_GT(moved, a.size() / 20);
  }
}

TEST_F(Calibrated, StatisticsSpareTheRunAndGiveTheSameBytes) {
  for (const PruneMethod method : {PruneMethod::kWanda, PruneMethod::kSparseGpt}) {
    const std::string name(prune_method_name(method));
    ConvertOptions options = this->options(method, "6:8", PackedLayout::kSlide, name + "-first");
    options.statistics = space_ / (name + "-statistics");
    convert_model(options);
    const auto want = snapshot(options.target);
    const auto statistics = snapshot(options.statistics);
    EXPECT_FALSE(fs::exists(options.statistics.string() + ".partial"));
    options.target = space_ / (name + "-second");
    options.calibration.text.clear();
    convert_model(options);
    EXPECT_EQ(snapshot(options.target), want);
    EXPECT_EQ(snapshot(options.statistics), statistics);
    // Another pattern, from the same statistics: config.json says along what they were collected.
    options.target = space_ / (name + "-third");
    options.pattern = Pattern::parse("4:6");
    convert_model(options);
    EXPECT_THAT(info_of(name + "-third").calibration,
                HasSubstr("second moments along " + name + " 6:8 slide"));
  }
  // Matrices have the diagonals in them, but not the other way round.
  ConvertOptions options = this->options(PruneMethod::kWanda, "6:8", PackedLayout::kSlide, "from-matrices");
  options.calibration.text.clear();
  options.statistics = space_ / "sparsegpt-statistics";
  convert_model(options);
  options = this->options(PruneMethod::kSparseGpt, "6:8", PackedLayout::kSlide, "from-diagonals");
  options.calibration.text.clear();
  options.statistics = space_ / "wanda-statistics";
  EXPECT_THAT(error_of([&] { convert_model(options); }), HasSubstr("diagonals of the second moments only"));
}

TEST_F(Calibrated, DependsOnTheSeedAndNothingElse) {
  const auto convert = [&](const std::string& target, std::uint64_t seed) {
    ConvertOptions options = this->options(PruneMethod::kSparseGpt, "4:6", PackedLayout::kSplit, target);
    options.calibration.seed = seed;
    convert_model(options);
    auto files = snapshot(options.target);
    files.erase("config.json");  // holds the seed
    return files;
  };
  const auto one = convert("one", 1);
  EXPECT_EQ(convert("again", 1), one);
  EXPECT_NE(convert("two", 2), one);
}

TEST_F(Calibrated, RulesAreRecordedForWholeGroups) {
  ConvertOptions options = this->options(PruneMethod::kSparseGpt, "6:8", PackedLayout::kSlide);
  options.rules = {{"*.down_proj", Pattern::parse("8:10"), PackedLayout::kSplit},
                   {"*.layers.1.self_attn.k_proj", Pattern::parse("2:4"), PackedLayout::kSlide},
                   {"*.layers.0.mlp.gate_up", Pattern(), PackedLayout::kSlide}};
  options.skip = {"*.o_proj"};
  convert_model(options);
  const PackedInfo info = info_of("out");
  const auto is = [&](const std::string& linear, const char* pattern, PackedLayout layout) {
    EXPECT_EQ(info.pattern_of(linear).to_string(), pattern) << linear;
    EXPECT_EQ(info.layout_of(linear), layout) << linear;
  };
  is("model.layers.0.mlp.down_proj", "8:10", PackedLayout::kSplit);
  is("model.layers.1.self_attn.q_proj", "2:4", PackedLayout::kSlide);
  is("model.layers.1.self_attn.v_proj", "2:4", PackedLayout::kSlide);
  is("model.layers.0.self_attn.q_proj", "6:8", PackedLayout::kSlide);
  is("model.layers.0.mlp.up_proj", "dense", PackedLayout::kSlide);
  is("model.layers.1.self_attn.o_proj", "dense", PackedLayout::kSlide);
  EXPECT_THAT(info.exceptions.at("model.layers.1.self_attn.q_proj").reason, HasSubstr("treated as a whole"));
  const ModelDirectory directory(space_ / "out");
  for (const FusedGroup& group : weight_table(wide_config()).groups) {
    for (const LinearSpec& spec : group.members) {
      validate_packed_linear(read_packed_linear(directory, info, spec.name, spec.n, spec.k, group.perm_name));
    }
  }
  options.target = space_ / "none";
  options.rules = {{"*.no_such", Pattern::parse("8:10"), PackedLayout::kSlide}};
  EXPECT_THAT(error_of([&] { convert_model(options); }), HasSubstr("--pattern *.no_such: matches no linear"));
}

TEST_F(Calibrated, RefusesWhatCannotBeDone) {
  const auto refusal = [&](const ConvertOptions& options) {
    std::string message = error_of([&] { convert_model(options); });
    EXPECT_EQ(message.find('\n'), std::string::npos);
    EXPECT_FALSE(fs::exists(options.target));
    EXPECT_FALSE(fs::exists(options.target.string() + ".partial")) << message;
    return message;
  };
  const ConvertOptions good = options(PruneMethod::kSparseGpt, "6:8", PackedLayout::kSlide);
  ConvertOptions bad = good;
  bad.calibration.text.clear();
  EXPECT_THAT(refusal(bad), HasSubstr("--method sparsegpt keeps the weights that matter for the inputs"));
  bad = good;
  bad.calibration.samples = 10'000;
  EXPECT_THAT(refusal(bad), HasSubstr("but --samples 10000: give a longer text"));
  bad = good;
  bad.calibration.sample_length = 513;
  EXPECT_THAT(refusal(bad), HasSubstr("--sample-length 513: 1 to 512"));
  bad = good;
  bad.calibration.text = (space_ / "nowhere").string();
  EXPECT_THAT(refusal(bad), HasSubstr("nowhere"));
  write_file(space_ / "empty", "");
  bad.calibration.text = (space_ / "empty").string();
  EXPECT_THAT(refusal(bad), HasSubstr("the calibration text is empty"));
  write_file(space_ / "latin", std::string(5000, '\xe9'));
  bad.calibration.text = (space_ / "latin").string();
  EXPECT_THAT(refusal(bad), HasSubstr("UTF-8"));
  bad = good;
  bad.dampening = 0;
  EXPECT_THAT(refusal(bad), HasSubstr("--dampening 0"));
  for (const PruneMethod method : {PruneMethod::kMagnitude, PruneMethod::kWanda, PruneMethod::kSparseGpt}) {
    bad = options(method, "6:8", PackedLayout::kSlide, "out", DType::kI8);
    bad.gptq = true;
    EXPECT_THAT(refusal(bad), HasSubstr("--rounding gptq: for --method sparsegpt and --dtype fp8, not " +
                                        std::string(prune_method_name(method)) + " and int8"));
  }
  bad = options(PruneMethod::kMagnitude, "6:8", PackedLayout::kSlide);
  bad.calibration.text = (space_ / "text").string();
  EXPECT_THAT(refusal(bad), HasSubstr("--method magnitude looks at weights only"));
  bad = options(PruneMethod::kNone, "6:8", PackedLayout::kSplit);
  EXPECT_THAT(refusal(bad), HasSubstr("--method none: the split layout chooses channels"));
  bad = options(PruneMethod::kMagnitude, "dense", PackedLayout::kSplit);
  EXPECT_THAT(refusal(bad), HasSubstr("dense has none"));

  // Statistics of another model; of none at all.
  ConvertOptions with = good;
  with.statistics = space_ / "statistics";
  convert_model(with);
  auto tensors = load_tensors(space_ / "in");
  find_tensor(tensors, "model.norm.weight").bytes[0] ^= 1;
  save_model(space_ / "other", read_file(space_ / "in" / "config.json"), tensors);
  fs::copy_file(space_ / "in" / "tokenizer.json", space_ / "other" / "tokenizer.json");
  with.source = space_ / "other";
  with.target = space_ / "other-out";
  EXPECT_THAT(refusal(with), HasSubstr("statistics of another model"));
  with = good;
  with.target = space_ / "third";
  with.statistics = space_ / "in";
  EXPECT_THAT(refusal(with), HasSubstr("holds no statistics"));
}

// A weight that makes an activation infinite is found where it shows, and nothing is left that looks
// finished.
TEST_F(Calibrated, NamesTheLayerWhoseInputIsNotFinite) {
  auto tensors = load_tensors(space_ / "in");
  RawTensor& norm = find_tensor(tensors, "model.layers.1.input_layernorm.weight");
  reinterpret_cast<std::uint16_t*>(norm.bytes.data())[3] = 0x7f80;
  save_model(space_ / "bad", read_file(space_ / "in" / "config.json"), tensors);
  fs::copy_file(space_ / "in" / "tokenizer.json", space_ / "bad" / "tokenizer.json");
  ConvertOptions options = this->options(PruneMethod::kWanda, "6:8", PackedLayout::kSlide);
  options.source = space_ / "bad";
  EXPECT_THAT(
      error_of([&] { convert_model(options); }),
      HasSubstr("input channel 3 of model.layers.1.self_attn.qkv is not finite in the calibration run"));
  EXPECT_FALSE(fs::exists(space_ / "out"));
}

TEST_F(Calibrated, QuantisedSourcesAreRefused) {
  ConvertOptions plain = options_for(space_ / "in", space_ / "packed", "dense", DType::kF8E4M3);
  convert_model(plain);
  unpack_model({space_ / "packed", space_ / "w8a8", false, true});
  for (const PackedLayout layout : {PackedLayout::kSlide, PackedLayout::kSplit}) {
    ConvertOptions options = this->options(PruneMethod::kWanda, "6:8", layout);
    options.source = space_ / "w8a8";
    EXPECT_THAT(error_of([&] { convert_model(options); }), HasSubstr("is quantised already"));
  }
}

}  // namespace
}  // namespace slidesparse
