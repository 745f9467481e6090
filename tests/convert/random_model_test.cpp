#include "convert/random_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/numeric.h"
#include "core/parallel.h"
#include "io/json.h"
#include "io/tokenizer/tokenizer.h"
#include "model/presets.h"
#include "model/weights.h"
#include "support.h"

namespace slidesparse {
namespace {

using namespace testing_support;
using ::testing::HasSubstr;

TEST(RandomModel, IsDeterministicWhateverTheThreads) {
  const Workspace space;
  make_model(space / "a");
  set_thread_count(5);
  make_model(space / "b");
  set_thread_count(0);
  EXPECT_TRUE(snapshot(space / "a") == snapshot(space / "b"));
  RandomModelOptions options;
  options.target = space / "c";
  options.seed = 12;
  options.quiet = true;
  random_model(small_config(), options);
  EXPECT_FALSE(snapshot(space / "a") == snapshot(space / "c"));
}

TEST(RandomModel, WeightsAreAboutNormalAndNormsAreOne) {
  const Workspace space;
  make_model(space / "a", small_config(Family::kQwen3));
  for (const RawTensor& tensor : load_tensors(space / "a")) {
    const auto* values = reinterpret_cast<const std::uint16_t*>(tensor.bytes.data());
    const std::size_t count = tensor.bytes.size() / 2;
    double sum = 0, squares = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const double value = bf16_to_float(values[i]);
      sum += value;
      squares += value * value;
    }
    const double mean = sum / static_cast<double>(count);
    if (tensor.name.ends_with("norm.weight")) {
      EXPECT_EQ(mean, 1.0);
      EXPECT_EQ(squares, sum);
    } else {
      const double tolerance = 4 / std::sqrt(static_cast<double>(count));
      EXPECT_NEAR(mean / 0.02, 0, tolerance) << tensor.name;
      EXPECT_NEAR(std::sqrt(squares / static_cast<double>(count)) / 0.02, 1, tolerance) << tensor.name;
    }
  }
}

TEST(RandomModel, TokenizerKnowsEveryByteAndTheSpecials) {
  const Workspace space;
  make_model(space / "a");
  const Tokenizer tokenizer = Tokenizer::from_file(space / "a" / "tokenizer.json");
  const std::string text = "Grüße, 世界!\n\t 12  ";
  const auto ids = tokenizer.encode(text);
  EXPECT_EQ(ids.size(), text.size());
  EXPECT_EQ(tokenizer.decode(ids), text);
  EXPECT_TRUE(tokenizer.is_special(298) && tokenizer.is_special(299));
  EXPECT_FALSE(tokenizer.is_special(7));
}

TEST(RandomModel, RefusesVocabulariesWithoutRoom) {
  const Workspace space;
  ModelConfig config = small_config();
  config.vocab = 257;
  EXPECT_THAT(error_of([&] { make_model(space / "a", config); }),
              HasSubstr("a vocabulary of 257 has no room"));
}

TEST(Presets, AreReadBackAsTheyAreAndHaveTheKnownShapes) {
  struct Known {
    const char* name;
    std::int64_t layers, qkv, o_k, gate_up, down_k;
    double dense_gb;  // 8-bit linears with BF16 embedding and head
  };
  const Known known[] = {{"llama3.2-1b", 16, 3072, 2048, 16384, 8192, 1.50},
                         {"llama3.2-3b", 28, 5120, 3072, 16384, 8192, 3.61},
                         {"qwen2.5-7b", 28, 4608, 3584, 37888, 18944, 8.71},
                         {"qwen2.5-14b", 48, 7168, 5120, 27648, 13824, 16.33}};
  for (const Known& k : known) {
    const ModelConfig config = parse_model_config(preset_config_json(k.name), k.name);
    const WeightTable table = weight_table(config);
    const auto rows = [&](std::size_t group) {
      std::int64_t sum = 0;
      for (const LinearSpec& spec : table.groups[group].members) sum += spec.n;
      return sum;
    };
    EXPECT_EQ(config.layers, k.layers);
    EXPECT_EQ(rows(0), k.qkv);
    EXPECT_EQ(table.groups[1].members[0].k, k.o_k);
    EXPECT_EQ(rows(2), k.gate_up);
    EXPECT_EQ(table.groups[3].members[0].k, k.down_k);
    double bytes = 0;
    for (const FusedGroup& group : table.groups) {
      for (const LinearSpec& spec : group.members) bytes += static_cast<double>(spec.n * spec.k);
    }
    bytes += static_cast<double>(config.vocab * config.hidden * 2 * (config.tied_embeddings ? 1 : 2));
    EXPECT_NEAR(bytes / 1e9, k.dense_gb, 0.012) << k.name;
  }
  for (const std::string& name : preset_names()) {
    const std::string json = preset_config_json(name);
    const ModelConfig read = parse_model_config(json, name);
    EXPECT_EQ(model_config_json(read), json);
    EXPECT_EQ(model_config_json(*preset_config(name)), json);
    EXPECT_TRUE(read.unknown_keys.empty()) << name;
  }
  EXPECT_EQ(parse_model_config(preset_config_json("qwen2.5-7b", 2), "short").layers, 2);
  EXPECT_THAT(error_of([] { preset_config_json("gpt-5"); }), HasSubstr("llama3.2-1b, llama3.2-3b"));
  EXPECT_THAT(error_of([] { preset_config_json("qwen2.5-7b", 0); }), HasSubstr("--layers 0"));
}

}  // namespace
}  // namespace slidesparse
