// Reads the #include lines of src/ and include/ and fails on an arrow that docs/map.md does not draw.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

// Folder -> folders it may include besides itself. The direction is down: nothing here may name a later
// folder.
const std::map<std::string, std::set<std::string>> kArrows{
    {"core", {}},
    {"format", {"core"}},
    {"prune", {"core", "format"}},
    {"quant", {"core", "format"}},
    {"io", {"core", "format", "quant"}},
    {"kernels", {"core", "format"}},
    {"gemm", {"core", "format", "kernels", "quant"}},
    {"ops", {"core", "format", "kernels", "gemm"}},
    {"model", {"core", "format", "prune", "quant", "io", "kernels", "gemm", "ops"}},
    {"convert", {"core", "format", "prune", "quant", "io", "model"}},
    {"engine", {"core", "format", "io", "kernels", "gemm", "ops", "model"}},
    {"sweep", {"core", "format", "io", "kernels", "gemm", "ops", "model", "convert", "engine"}},
    {"report", {"core", "format", "io", "sweep"}},
    {"cli",
     {"core", "format", "prune", "quant", "io", "gemm", "ops", "model", "convert", "engine", "sweep",
      "report"}},
};

// Vendor headers and the folders that may see them ("*" in a set: anybody's .cpp file, but nobody's public
// header).
const std::map<std::string, std::set<std::string>> kVendors{
    {"nlohmann/", {"io", "gemm", "model", "convert", "engine", "sweep", "report", "cli"}},
    {"sqlite3", {"sweep"}},
    {"CLI/", {"cli"}},
    {"dnnl", {"gemm"}},
    {"pcre2", {"io"}},
    {"unicode/", {"io"}},
    {"openssl/", {"io"}},
    {"omp.h", {"core"}},
    {"cblas", {"core"}},
    {"spdlog/", {"core"}},
    {"immintrin.h", {"core", "format", "prune", "quant", "kernels"}},
    {"cuda_", {"core", "kernels", "gemm"}},
    {"cublas", {"gemm"}},
    {"cusparse", {"gemm"}},
    {"cudnn", {"ops"}},
    {"cutlass/", {"gemm"}},
    {"cute/", {"gemm"}},
};

struct Include {
  std::string from;    // folder
  std::string to;      // folder, or empty for system and vendor headers
  std::string header;  // as written
  std::string place;   // file:line
  bool is_public = false;
};

std::vector<Include> includes_under(const fs::path& root, bool is_public) {
  static const std::regex kPattern(R"rx(^\s*#\s*include\s*[<"]([^">]+)[">])rx");
  std::vector<Include> found;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    const std::string extension = entry.path().extension();
    if (extension != ".h" && extension != ".cpp" && extension != ".cu" && extension != ".cuh") continue;
    const fs::path relative = fs::relative(entry.path(), root);
    std::ifstream file(entry.path());
    std::string line;
    for (int number = 1; std::getline(file, line); ++number) {
      std::smatch match;
      if (!std::regex_search(line, match, kPattern)) continue;
      std::string header = match[1];
      const std::string written = header;
      if (header.rfind("slidesparse/", 0) == 0) header = header.substr(12);
      const std::string folder = header.substr(0, header.find('/'));
      found.push_back({*relative.begin(),
                       header.find('/') != std::string::npos && kArrows.count(folder) != 0 ? folder : "",
                       written, relative.string() + ":" + std::to_string(number), is_public});
    }
  }
  return found;
}

std::vector<std::string> violations(const std::vector<Include>& includes) {
  std::vector<std::string> found;
  for (const Include& include : includes) {
    const auto arrows = kArrows.find(include.from);
    if (arrows == kArrows.end()) {
      found.push_back(include.place + ": folder " + include.from + " is not on the map");
      continue;
    }
    if (!include.to.empty() && include.to != include.from && arrows->second.count(include.to) == 0) {
      found.push_back(include.place + ": " + include.from + " must not include " + include.header);
    }
    for (const auto& [prefix, folders] : kVendors) {
      if (include.header.rfind(prefix, 0) != 0) continue;
      if (include.is_public)
        found.push_back(include.place + ": a public header must not include " + include.header);
      if (folders.count(include.from) == 0)
        found.push_back(include.place + ": " + include.from + " must not include " + include.header);
    }
    if (include.is_public && include.header.rfind("fmt/", 0) == 0) {
      found.push_back(include.place + ": a public header must not include " + include.header);
    }
    for (const char* forbidden : {"tests/", "bench/", "python/"}) {
      if (include.header.find(forbidden) != std::string::npos)
        found.push_back(include.place + ": src must not see " + include.header);
    }
  }
  return found;
}

TEST(IncludeArrows, SourceObeysTheMap) {
  const fs::path root = SLIDESPARSE_SOURCE_DIR;
  const auto inner = includes_under(root / "src", false);
  const auto outer = includes_under(root / "include" / "slidesparse", true);
  ASSERT_GT(inner.size(), 50u);
  ASSERT_GT(outer.size(), 5u);
  EXPECT_THAT(violations(inner), testing::IsEmpty());
  EXPECT_THAT(violations(outer), testing::IsEmpty());
}

TEST(IncludeArrows, TheMapHasNoCycle) {
  std::set<std::string> done;
  for (std::size_t round = 0; round <= kArrows.size(); ++round) {
    for (const auto& [folder, uses] : kArrows) {
      if (std::all_of(uses.begin(), uses.end(), [&](const std::string& use) { return done.count(use) != 0; }))
        done.insert(folder);
    }
  }
  EXPECT_EQ(done.size(), kArrows.size());
}

TEST(IncludeArrows, ForbiddenArrowsAreFound) {
  const std::vector<Include> bad{{"core", "model", "model/model.h", "core/x.h:1", false},
                                 {"format", "", "dnnl.hpp", "format/x.cpp:2", false},
                                 {"io", "", "nlohmann/json.hpp", "io/x.h:3", true},
                                 {"ops", "", "cublasLt.h", "ops/x.cpp:5", false},
                                 {"kernels", "", "cutlass/cutlass.h", "kernels/x.cu:6", false},
                                 {"model", "", "cuda_runtime_api.h", "model/x.cpp:7", false},
                                 {"attic", "core", "core/fail.h", "attic/x.h:4", false}};
  EXPECT_EQ(violations(bad).size(), 7u);
  EXPECT_THAT(violations({{"model", "ops", "ops/linear.h", "model/x.cpp:1", false}}), testing::IsEmpty());
}

}  // namespace
