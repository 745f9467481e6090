// The forward pass against itself: chunks, batches, forms of the same weights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <string>

#include "core/numeric.h"
#include "core/random.h"
#include "io/compressed_tensors.h"
#include "io/json.h"
#include "io/packed_directory.h"
#include "model/model_test_tools.h"
#include "model/weight_reader.h"
#include "model/weights.h"
#include "quant/weights.h"
#include "slidesparse/core/error.h"
#include "slidesparse/format/pack.h"

namespace slidesparse {
namespace {

using test::NewTensor;
using test::Rows;

std::vector<std::int32_t> some_tokens(std::int64_t count, std::uint64_t seed = 1) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<std::int32_t>(random_bits(seed, static_cast<std::uint64_t>(i)) % 128));
  }
  return tokens;
}

std::vector<std::int32_t> part(const std::vector<std::int32_t>& tokens, std::size_t begin, std::size_t end) {
  return {tokens.begin() + static_cast<std::ptrdiff_t>(begin),
          tokens.begin() + static_cast<std::ptrdiff_t>(end)};
}

double rms(const Rows& rows) {
  double sum = 0, count = 0;
  for (const auto& row : rows) {
    for (const float value : row) sum += static_cast<double>(value) * value, ++count;
  }
  return std::sqrt(sum / count);
}

double distance(const Rows& a, const Rows& b) {
  Rows difference = a;
  for (std::size_t i = 0; i < a.size(); ++i) {
    for (std::size_t j = 0; j < a[i].size(); ++j) difference[i][j] -= b.at(i)[j];
  }
  return rms(difference);
}

std::vector<std::byte> bytes_of(const TensorView& view) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(view.byte_size()));
  std::memcpy(bytes.data(), view.data, bytes.size());
  return bytes;
}

// A golden model's weights, quantised after zeroing two lanes of every eight, as a packed directory and as a
// compressed-tensors one.
struct QuantisedPair {
  test::ScratchDirectory scratch;
  std::filesystem::path packed, dense;

  QuantisedPair(const std::string& family, DType dtype, bool tensor_scale = false)
      : scratch("slidesparse_model_test_" + family),
        packed(scratch.path() / "packed"),
        dense(scratch.path() / "dense") {
    const std::string text = read_text_file(test::golden(family) / "config.json");
    const ModelConfig config = parse_model_config(text, "config.json");
    const test::TensorFile source(test::golden(family) / "model.safetensors");
    std::vector<NewTensor> packed_tensors, dense_tensors;
    const WeightTable table = weight_table(config);
    std::vector<std::string> linears;
    for (const FusedGroup& group : table.groups) {
      for (const LinearSpec& spec : group.members) {
        linears.push_back(spec.name + ".weight");
        add_linear(spec, source.at(spec.name + ".weight"), dtype, tensor_scale, packed_tensors,
                   dense_tensors);
      }
    }
    for (const auto& [name, view] : source.all()) {
      if (std::ranges::find(linears, name) != linears.end()) continue;
      std::vector<std::int64_t> shape(view.shape.dims().begin(), view.shape.dims().end());
      packed_tensors.push_back({name, view.dtype, shape, bytes_of(view)});
      dense_tensors.push_back(packed_tensors.back());
    }
    PackedInfo info;
    info.pattern = Pattern::of_half_group(4);
    info.dtype = dtype;
    info.source_sha256 = std::string(64, '0');
    info.tool_version = "0.1.0";
    test::write_model_directory(packed, config_with_packed_info(text, info), by_alignment(packed_tensors));
    test::write_model_directory(dense, config_with_compressed_tensors(text, dtype, {"lm_head"}),
                                by_alignment(dense_tensors));
  }

  // Wide elements first, so that every tensor starts at a multiple of its element.
  static std::vector<NewTensor> by_alignment(std::vector<NewTensor> tensors) {
    std::ranges::stable_sort(tensors, std::greater{}, [](const NewTensor& t) { return dtype_size(t.dtype); });
    return tensors;
  }

  static void add_linear(const LinearSpec& spec, const TensorView& weight, DType dtype, bool tensor_scale,
                         std::vector<NewTensor>& packed_tensors, std::vector<NewTensor>& dense_tensors) {
    const Pattern pattern = Pattern::of_half_group(4);
    std::vector<std::uint16_t> pruned(weight.as<const std::uint16_t>(),
                                      weight.as<const std::uint16_t>() + spec.n * spec.k);
    for (std::int64_t i = 0; i < spec.n * spec.k; i += 8) {
      pruned[static_cast<std::size_t>(i + i / 8 % 8)] = 0;
      pruned[static_cast<std::size_t>(i + (i / 8 + 3) % 8)] = 0;
    }
    std::vector<std::byte> codes(static_cast<std::size_t>(spec.n * spec.k));
    std::vector<std::uint16_t> scales(static_cast<std::size_t>(spec.n));
    quantise_weight_rows(DType::kBF16, pruned.data(), spec.n, spec.k, spec.k, dtype, codes.data(),
                         scales.data());
    if (tensor_scale) std::ranges::fill(scales, scales[0]);
    std::vector<std::byte> scale_bytes(2 * scales.size());
    std::memcpy(scale_bytes.data(), scales.data(), scale_bytes.size());
    std::vector<std::byte> values(static_cast<std::size_t>(spec.n * pattern.values_per_row(spec.k)));
    std::vector<std::byte> masks(static_cast<std::size_t>(spec.n * pattern.code_bytes_per_row(spec.k)));
    pack_rows(pattern, dtype, codes.data(), spec.n, spec.k, spec.k, values.data(),
              reinterpret_cast<std::uint8_t*>(masks.data()));
    packed_tensors.push_back(
        {spec.name + ".values", dtype, {spec.n, pattern.values_per_row(spec.k)}, values});
    packed_tensors.push_back(
        {spec.name + ".codes", DType::kU8, {spec.n, pattern.code_bytes_per_row(spec.k)}, masks});
    packed_tensors.push_back({spec.name + ".scale", DType::kBF16, {spec.n, 1}, scale_bytes});
    dense_tensors.push_back({spec.name + ".weight", dtype, {spec.n, spec.k}, codes});
    if (tensor_scale) {
      scale_bytes.resize(2);
      dense_tensors.push_back({spec.name + ".weight_scale", DType::kBF16, {1}, scale_bytes});
    } else {
      dense_tensors.push_back({spec.name + ".weight_scale", DType::kBF16, {spec.n, 1}, scale_bytes});
    }
  }
};

TEST(Forward, PackedInt8IsBitEqualToMaskedDenseInt8) {
  for (const char* family : {"llama", "qwen2", "qwen3"}) {
    const QuantisedPair pair(family, DType::kI8);
    ModelOptions validate;
    validate.validate = true;
    const Model packed = Model::load(pair.packed, validate);
    const Model dense = Model::load(pair.dense);
    EXPECT_EQ(packed.summary().pattern, "6:8");
    EXPECT_EQ(dense.summary().pattern, "dense");
    EXPECT_EQ(packed.summary().dtype, "int8");
    EXPECT_LT(packed.summary().linear_bytes, dense.summary().linear_bytes);
    for (const std::int64_t length : {1, 3, 40}) {
      const std::vector<std::int32_t> tokens = some_tokens(length);
      EXPECT_EQ(test::run_whole(packed, tokens), test::run_whole(dense, tokens)) << family << " " << length;
    }
    ModelOptions reference;
    reference.linear.backends = {"reference"};
    EXPECT_LE(distance(test::run_whole(Model::load(pair.packed, reference), some_tokens(20)),
                       test::run_whole(packed, some_tokens(20))),
              2e-3 * rms(test::run_whole(packed, some_tokens(20))));  // the BF16 head sums in another order
  }
}

TEST(Forward, OneScaleATensorIsOneScaleARow) {
  const QuantisedPair pair("llama", DType::kI8, true);
  EXPECT_EQ(test::run_whole(Model::load(pair.packed), some_tokens(9)),
            test::run_whole(Model::load(pair.dense), some_tokens(9)));
}

TEST(Forward, PackedFp8IsCloseToMaskedDenseFp8) {
  for (const char* family : {"llama", "qwen2", "qwen3"}) {
    const QuantisedPair pair(family, DType::kF8E4M3);
    const Rows packed = test::run_whole(Model::load(pair.packed), some_tokens(40));
    const Rows dense = test::run_whole(Model::load(pair.dense), some_tokens(40));
    // They may differ by summation order; a BF16 rounding that flips can then flip an FP8 code.
    EXPECT_LE(distance(packed, dense), 0.02 * rms(dense)) << family;
  }
}

class Forms : public testing::TestWithParam<std::string> {
 protected:
  Forms()
      : pair_(GetParam(), DType::kI8),
        model_(Model::load(pair_.packed)),
        plain_(Model::load(test::golden(GetParam()))) {}
  QuantisedPair pair_;
  Model model_;
  Model plain_;
};

TEST_P(Forms, ChunkedPrefillIsWholePrefill) {
  const std::vector<std::int32_t> tokens = some_tokens(100);
  for (const Model* model : {&model_, &plain_}) {
    const Rows whole = test::run_whole(*model, tokens);
    const KvCache cache(model->config(), 30, 4);
    std::vector<std::int32_t> table;
    table.reserve(25);
    for (std::int32_t i = 0; i < 25; ++i) table.push_back((11 * i + 5) % 30);
    Rows rows;
    for (const auto& [begin, end] :
         std::vector<std::pair<std::size_t, std::size_t>>{{0, 37}, {37, 39}, {39, 100}}) {
      const Rows chunk = test::run_step(
          *model, cache, {{part(tokens, begin, end), static_cast<std::int64_t>(begin), table}});
      rows.insert(rows.end(), chunk.begin(), chunk.end());
    }
    // INT8 linears and attention are bit-exact, the BF16 head is to BF16 rounding of its inputs, which are
    // the same.
    EXPECT_LE(distance(rows, whole), (model == &model_ ? 1e-5 : 0.02) * rms(whole));
  }
}

// Prompts that are one step need the keys and values of the layer that runs alone.
TEST_P(Forms, OneLayerOfCacheServesWholePrompts) {
  const std::vector<std::int32_t> tokens = some_tokens(50);
  const std::vector<test::SequenceStep> step{{tokens, 0, test::pages_from(0, 13)}};
  const KvCache whole(model_.config(), 13, 4), one(model_.config(), 13, 4, {}, {DType::kBF16, true});
  ASSERT_GT(model_.config().layers, 1);
  EXPECT_EQ(one.layer(0).keys.data, one.layer(1).keys.data);
  EXPECT_EQ(test::run_step(model_, one, step), test::run_step(model_, whole, step));
}

TEST_P(Forms, ManySequencesAreEachOneAlone) {
  std::vector<test::SequenceStep> steps;
  std::vector<Rows> alone;
  std::int32_t page = 0;
  for (const std::int64_t length : {5, 1, 33, 2}) {
    const std::vector<std::int32_t> tokens = some_tokens(length, static_cast<std::uint64_t>(length));
    const auto pages = static_cast<std::int32_t>(length / 4 + 1);
    steps.push_back({tokens, 0, test::pages_from(page, pages)});
    page += pages;
    alone.push_back(test::run_whole(model_, tokens));
  }
  const KvCache cache(model_.config(), page, 4);
  const Rows together = test::run_step(model_, cache, steps);
  std::size_t row = 0;
  for (const Rows& rows : alone) {
    const Rows slice(together.begin() + static_cast<std::ptrdiff_t>(row),
                     together.begin() + static_cast<std::ptrdiff_t>(row + rows.size()));
    EXPECT_LE(distance(slice, rows), 1e-5 * rms(rows));
    row += rows.size();
  }
}

TEST_P(Forms, PromptThenDecodeIsPrefill) {
  const std::vector<std::int32_t> tokens = some_tokens(60);
  const Rows whole = test::run_whole(plain_, tokens);
  const KvCache cache(plain_.config(), 4, 16);
  Rows rows = test::run_step(plain_, cache, {{part(tokens, 0, 40), 0, {3, 1, 0, 2}}});
  for (std::size_t i = 40; i < 60; ++i) {
    rows.push_back(
        test::run_step(plain_, cache, {{{tokens[i]}, static_cast<std::int64_t>(i), {3, 1, 0, 2}}}).front());
  }
  EXPECT_LE(distance(rows, whole), 0.02 * rms(whole));
}

TEST_P(Forms, BlocksOfLogitsAreTheLogits) {
  const std::vector<std::int32_t> tokens = some_tokens(50);
  const Rows whole = test::run_whole(model_, tokens);
  const KvCache cache(model_.config(), 4, 16);
  const std::vector<std::int32_t> table{0, 1, 2, 3}, offsets{0, 50}, contexts{50}, wanted{0, 7, 31, 49};
  std::vector<std::int32_t> positions(50);
  for (std::int32_t i = 0; i < 50; ++i) positions[static_cast<std::size_t>(i)] = i;
  Arena arena;
  Context context;
  context.arena = &arena;
  Rows rows;
  model_.forward_blocks(context, {tokens, positions, offsets, contexts, table, 4, wanted}, cache,
                        [&](std::int64_t first, const TensorView& logits) {
                          EXPECT_EQ(first, static_cast<std::int64_t>(rows.size()));
                          for (std::int64_t r = 0; r < logits.dim(0); ++r) {
                            const float* row = logits.as<const float>() + r * logits.stride(0);
                            rows.emplace_back(row, row + logits.dim(1));
                          }
                        });
  EXPECT_LE(distance(rows, {whole[0], whole[7], whole[31], whole[49]}), 1e-5 * rms(whole));
  EXPECT_EQ(arena.used(), 0u);
  EXPECT_LE(arena.peak(), static_cast<std::size_t>(model_.workspace_bytes(50, 1)));
}

INSTANTIATE_TEST_SUITE_P(Families, Forms, testing::Values("llama", "qwen2", "qwen3"),
                         [](const auto& instance) { return instance.param; });

TEST(Forward, RefusesWhatIsOutside) {
  const Model model = Model::load(test::golden("llama"));
  const KvCache cache(model.config(), 4, 16);
  const auto message = [&](const test::SequenceStep& step) -> std::string {
    try {
      test::run_step(model, cache, {step});
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput) << error.what();
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message({{1, 2}, 0, {0}}), "");
  EXPECT_THAT(message({{128}, 0, {0}}), testing::HasSubstr("token id 128 is not in the vocabulary of 128"));
  EXPECT_THAT(message({{-1}, 0, {0}}), testing::HasSubstr("token id -1"));
  EXPECT_THAT(message({{1}, 16, {0}}), testing::HasSubstr("does not fit in 1 pages of 16"));
  EXPECT_THAT(message({{1}, 0, {4}}), testing::HasSubstr("page 4 of a cache of 4"));
  EXPECT_THAT(message({{1}, 0, {-2}}), testing::HasSubstr("page -2"));
  EXPECT_THAT(message({{1}, 256, std::vector<std::int32_t>(17, 0)}),
              testing::HasSubstr("position 256 is beyond the model's 256"));
  EXPECT_THAT(message({{}, 0, {0}}), testing::HasSubstr("without tokens"));
}

TEST(Load, SaysWhichTensorIsWrong) {
  const test::TensorFile source(test::golden("llama") / "model.safetensors");
  const std::string config = read_text_file(test::golden("llama") / "config.json");
  const auto load = [&](const std::function<void(std::vector<NewTensor>&)>& change) -> std::string {
    std::vector<NewTensor> tensors;
    for (const auto& [name, view] : source.all()) {
      tensors.push_back(
          {name, view.dtype, {view.shape.dims().begin(), view.shape.dims().end()}, bytes_of(view)});
    }
    change(tensors);
    const test::ScratchDirectory scratch("slidesparse_load_test");
    test::write_model_directory(scratch.path(), config, tensors);
    try {
      Model::load(scratch.path());
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const auto named = [](std::vector<NewTensor>& tensors, const std::string& name) {
    return std::ranges::find(tensors, name, &NewTensor::name);
  };
  const std::string up = "model.layers.1.mlp.up_proj.weight";
  EXPECT_EQ(load([](auto&) {}), "");
  EXPECT_THAT(load([&](auto& t) { t.erase(named(t, up)); }), testing::HasSubstr(up));
  EXPECT_THAT(load([&](auto& t) { t.erase(named(t, "lm_head.weight")); }),
              testing::HasSubstr("lm_head.weight"));
  EXPECT_THAT(
      load([&](auto& t) { std::swap(named(t, up)->shape[0], named(t, up)->shape[1]); }),
      testing::AllOf(testing::HasSubstr(up), testing::HasSubstr("[80, 48]"), testing::HasSubstr("[48, 80]")));
  EXPECT_THAT(load([&](auto& t) { named(t, up)->dtype = DType::kI16; }), testing::HasSubstr("I16"));
  EXPECT_THAT(
      load([&](auto& t) {
        t.push_back({"model.layers.0.self_attn.q_proj.bias", DType::kBF16, {48}, std::vector<std::byte>(96)});
      }),
      testing::HasSubstr("has no such bias"));
}

// F16 and F32 directories are run as BF16.
TEST(Load, WidensAndNarrowsPlainWeightsToBf16) {
  const test::TensorFile source(test::golden("qwen3") / "model.safetensors");
  const std::string config = read_text_file(test::golden("qwen3") / "config.json");
  const Rows expected = test::run_whole(Model::load(test::golden("qwen3")), some_tokens(12));
  std::vector<NewTensor> wide;
  for (const auto& [name, view] : source.all()) {
    NewTensor tensor{name, DType::kF32, {view.shape.dims().begin(), view.shape.dims().end()}, {}};
    tensor.bytes.resize(static_cast<std::size_t>(4 * view.shape.count()));
    for (std::int64_t i = 0; i < view.shape.count(); ++i) {
      const float value = bf16_to_float(view.as<const std::uint16_t>()[i]);
      std::memcpy(tensor.bytes.data() + 4 * i, &value, sizeof(value));
    }
    wide.push_back(std::move(tensor));
  }
  const test::ScratchDirectory scratch("slidesparse_wide_test");
  test::write_model_directory(scratch.path(), config, wide);
  EXPECT_EQ(test::run_whole(Model::load(scratch.path()), some_tokens(12)), expected);
}

TEST(Random, IsDeterministicAndRunsInEveryForm) {
  const ModelConfig config =
      parse_model_config(read_text_file(test::golden("qwen2") / "config.json"), "config.json");
  for (const DType dtype : {DType::kI8, DType::kF8E4M3, DType::kBF16}) {
    for (const char* pattern : {"dense", "2:4", "6:8", "8:10", "14:16"}) {
      const auto make = [&](std::uint64_t seed) {
        return test::run_whole(Model::random(config, dtype, Pattern::parse(pattern), DType::kI8, seed),
                               some_tokens(6));
      };
      const Rows first = make(1);
      EXPECT_EQ(first, make(1)) << pattern;
      EXPECT_NE(first, make(2)) << pattern;
      for (const auto& row : first) {
        for (const float value : row) ASSERT_TRUE(std::isfinite(value));
      }
    }
  }
  const Model packed = Model::random(config, DType::kI8, Pattern::parse("6:8"), DType::kI8, 1);
  EXPECT_EQ(packed.summary().pattern, "6:8");
  EXPECT_EQ(packed.summary().head_bytes, 128 * (48 + 2));
  EXPECT_EQ(packed.linears_at(1, 1).size(), 2u * 7u + 1u);
  EXPECT_EQ(packed.linears_at(1, 1).back().name, "lm_head");
  EXPECT_EQ(Model::random(config, DType::kI8, Pattern(), DType::kBF16, 1).summary().head_bytes, 0);
  EXPECT_THROW(Model::random(config, DType::kI8, Pattern(), DType::kF32, 1), Error);
}

// Repeated layers are those of the first layer that has its own, for every layout.
TEST(RandomModel, LayersMayAllBeTheFirst) {
  ModelConfig config =
      parse_model_config(read_text_file(test::golden("llama") / "config.json"), "config.json");
  config.hidden = config.intermediate = 256;
  const WeightTable table = weight_table(config);
  for (const Layout layout : {Layout::kPacked, Layout::kSplit}) {
    const auto reader = [&](RandomLayers layers) {
      return random_weights(config, DType::kI8, Pattern::parse("6:8"), DType::kBF16, 1, layout, layers);
    };
    const auto own = reader(RandomLayers::kOwn), repeated = reader(RandomLayers::kRepeated);
    std::map<std::string, WeightSource> first;
    for (const FusedGroup& group : table.groups) {
      for (const LinearSpec& spec : group.members) {
        const WeightSource a = own->linear(spec, group), b = repeated->linear(spec, group);
        const std::string name = spec.name.substr(spec.name.rfind('.') + 1);
        const auto [at, is_first] = first.emplace(name, b);
        if (is_first) {
          EXPECT_EQ(std::memcmp(a.values, b.values, static_cast<std::size_t>(a.n)), 0) << spec.name;
        } else {
          EXPECT_EQ(b.values, at->second.values) << spec.name;
          EXPECT_NE(std::memcmp(a.values, b.values, static_cast<std::size_t>(a.n)), 0) << spec.name;
        }
        EXPECT_EQ(a.n, b.n);
        EXPECT_EQ(a.k, b.k);
      }
    }
  }
}

// Random split weights: linears of one input share its order, and the model gives numbers.
TEST(RandomModel, SplitWeightsAreAsLargeAsPackedOnesAndRun) {
  ModelConfig config =
      parse_model_config(read_text_file(test::golden("llama") / "config.json"), "config.json");
  config.hidden = config.intermediate = 256;
  const auto reader =
      random_weights(config, DType::kI8, Pattern::parse("6:8"), DType::kBF16, 1, Layout::kSplit);
  const WeightTable table = weight_table(config);
  for (const FusedGroup& group : table.groups) {
    std::vector<std::int32_t> order;
    for (const LinearSpec& spec : group.members) {
      const WeightSource source = reader->linear(spec, group), planned = reader->linear_shape(spec, group);
      ASSERT_EQ(source.layout, Layout::kSplit);
      EXPECT_EQ(planned.layout, Layout::kSplit);
      EXPECT_EQ(planned.n, source.n);
      std::vector<std::int32_t> here(source.perm.begin(), source.perm.end());
      if (order.empty()) order = here;
      EXPECT_EQ(here, order) << spec.name;
      std::ranges::sort(here);
      for (std::size_t i = 0; i < here.size(); ++i) ASSERT_EQ(here[i], static_cast<std::int32_t>(i));
    }
  }
  const Model split =
      Model::random(config, DType::kI8, Pattern::parse("6:8"), DType::kBF16, 1, {}, Layout::kSplit);
  EXPECT_EQ(split.summary().pattern, "6:8 split");
  const Rows rows = test::run_whole(split, some_tokens(20));
  for (const std::vector<float>& row : rows) {
    for (const float value : row) ASSERT_TRUE(std::isfinite(value));
  }
  EXPECT_GT(rms(rows), 0);
}

TEST(KvCache, CountsBytesAndRefusesNonsense) {
  const ModelConfig config =
      parse_model_config(read_text_file(test::golden("qwen3") / "config.json"), "config.json");
  EXPECT_EQ(KvCache::bytes_per_page(config, 16), 16 * 2 * 2 * 32 * 2);
  EXPECT_THROW(KvCache(config, 0, 16), Error);
  EXPECT_THROW(KvCache(config, 1, -1), Error);
  EXPECT_EQ(KvCache::bytes_per_page(config, 16, DType::kF8E4M3), 16 * 2 * 2 * 32);
  EXPECT_THROW(KvCache(config, 1, 16, {}, {DType::kF8E4M3}), Error);  // on the CPU
  EXPECT_THROW(KvCache(config, 1, 16, {}, {DType::kI8}), Error);
  EXPECT_THROW(KvCache(config, std::int64_t{1} << 40, 1 << 20), Error);
}

}  // namespace
}  // namespace slidesparse
