#include "convert/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "convert/unpack.h"
#include "io/json.h"
#include "support.h"

namespace slidesparse {
namespace {

using namespace testing_support;
using ::testing::HasSubstr;

const InspectRow& row_named(const Inspection& inspection, const std::string& name) {
  for (const InspectRow& row : inspection.rows) {
    if (row.name == name) return row;
  }
  throw std::runtime_error("no row " + name);
}

TEST(Inspect, BytesOfPackedModelsAreThoseOfTheFormat) {
  const Workspace space;
  make_model(space / "in");
  convert_model(options_for(space / "in", space / "packed"));
  const Inspection inspection = inspect_directory(space / "packed", true);
  EXPECT_EQ(inspection.kind, "packed");
  const InspectRow& row = row_named(inspection, "model.layers.0.mlp.up_proj");  // [72, 40]
  EXPECT_EQ(row.pattern->to_string(), "6:8");
  EXPECT_EQ(row.layout, "slide");
  EXPECT_EQ(row.bytes, 72 * 30 + 72 * 4 + 72 * 2);  // 5 groups: 30 values, 25 bits
  EXPECT_EQ(row.dense_bytes, 72 * 40 + 72 * 2);
  EXPECT_GE(row.zeros, 72 * 10);
  std::int64_t bytes = 0;
  for (const RawTensor& tensor : load_tensors(space / "packed"))
    bytes += static_cast<std::int64_t>(tensor.bytes.size());
  EXPECT_EQ(inspection.bytes, bytes);
  const Json json = parse_json(inspection_to_json(inspection), "inspect");
  EXPECT_EQ(json.at("tensors").size(), inspection.rows.size());
  EXPECT_EQ(json.at("slidesparse").at("pattern"), "6:8");
  EXPECT_THAT(inspection_to_text(inspection), HasSubstr("6:8 (2 of 8 zeroed)"));
}

TEST(Inspect, FindsThePatternOfStandardDirectories) {
  for (const DType dtype : {DType::kI8, DType::kF8E4M3, DType::kBF16}) {
    const Workspace space;
    make_model(space / "in");
    convert_model(options_for(space / "in", space / "packed", "4:6", dtype));
    UnpackOptions options;
    options.source = space / "packed";
    options.target = space / "out";
    options.quiet = true;
    unpack_model(options);
    const Inspection standard = inspect_directory(space / "out", true);
    const Inspection packed = inspect_directory(space / "packed", true);
    EXPECT_EQ(standard.kind, dtype == DType::kBF16 ? "plain" : "quantised");
    int found = 0;
    for (const InspectRow& row : packed.rows) {
      if (!row.linear) continue;
      const InspectRow& other = row_named(standard, row.name + ".weight");
      EXPECT_EQ(other.pattern->to_string(), "4:6") << row.name;
      EXPECT_EQ(other.zeros, row.zeros) << row.name;
      ++found;
    }
    EXPECT_EQ(found, 14);
    EXPECT_EQ(standard.linear_bytes, packed.linear_dense_bytes);
    EXPECT_TRUE(row_named(standard, "model.embed_tokens.weight").pattern->is_dense());
    EXPECT_FALSE(row_named(standard, "model.norm.weight").pattern.has_value());
  }
  const Workspace space;
  make_model(space / "f32", small_config(Family::kLlama, DType::kF32));
  EXPECT_TRUE(row_named(inspect_directory(space / "f32", true), "model.layers.0.mlp.up_proj.weight")
                  .pattern->is_dense());
}

TEST(Inspect, NamesWhatIsDamaged) {
  const Workspace space;
  make_model(space / "in");
  convert_model(options_for(space / "in", space / "packed"));
  const auto damage = [&](const std::string& from, const std::string& tensor, std::size_t at,
                          const std::string& bytes) {
    auto tensors = load_tensors(space / from);
    find_tensor(tensors, tensor).bytes.replace(at, bytes.size(), bytes);
    save_model(space / "bad", read_file(space / from / "config.json"), tensors);
    return error_of([&] { inspect_directory(space / "bad", true); });
  };
  EXPECT_THAT(damage("packed", "model.layers.0.mlp.up_proj.codes", 8, "\xff\xff"),
              HasSubstr("model.layers.0.mlp.up_proj"));
  EXPECT_THAT(damage("packed", "model.layers.0.mlp.up_proj.values", 8, "\x7f"),
              HasSubstr("model.layers.0.mlp.up_proj.values"));
  EXPECT_THAT(damage("packed", "model.layers.0.mlp.up_proj.scale", 2, "\xc0\x7f"),
              HasSubstr("model.layers.0.mlp.up_proj.scale"));
  EXPECT_THAT(damage("in", "model.layers.0.mlp.up_proj.weight", 2 * 41, "\xc0\x7f"),
              HasSubstr("model.layers.0.mlp.up_proj.weight: row 1, column 1 is not a finite number"));
}

}  // namespace
}  // namespace slidesparse
