#include "gemm/tuning_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

const TuningMachine kHere{"card \"X\"", "13.0", "lib 2", "0.1.0"};
const TuningMachine kOlderDriver{"card \"X\"", "12.9", "lib 2", "0.1.0"};
const TuningMachine kElsewhere{"card Y", "13.0", "lib 2", "0.1.0"};

TuningProblem problem(std::int64_t n = 256) {
  TuningProblem made;
  made.dtype = DType::kF8E4M3;
  made.pattern = Pattern::of_half_group(4);
  made.layout = Layout::kPacked;
  made.n = n;
  made.k = 512;
  made.bias = true;
  return made;
}

TunedKernel timed(std::string name, double seconds) {
  TunedKernel kernel;
  kernel.backend = "b";
  kernel.name = std::move(name);
  kernel.seconds = {seconds, seconds * 0.9, seconds * 1.1, 7};
  return kernel;
}

TunedKernel bad(std::string name, std::string why) {
  TunedKernel kernel;
  kernel.backend = "b";
  kernel.name = std::move(name);
  kernel.bad = std::move(why);
  return kernel;
}

TunedPoint point(std::vector<TunedKernel> kernels) {
  return {"sustained", std::move(kernels)};
}

std::string error_of(const std::string& text) {
  try {
    TuningCache::parse(text, "cache.json", kHere);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "accepted";
}

TuningCache example() {
  TuningCache cache(kHere);
  TunedKernel whole = timed("one \"quoted\"\n", 1.25e-5);
  whole.config = "tile=128x256 stages=3";
  whole.id = -7;
  whole.sparse = whole.two_roundings = true;
  whole.reproducible = whole.finalist = false;
  cache.put(problem(), 64, point({whole, bad("two", "illegal instruction")}));
  cache.put(problem(), 128, point({timed("one", 2e-5)}));
  cache.put(problem(512), 64, point({}));
  return cache;
}

TEST(TuningCache, ReadsBackWhatItWrites) {
  const TuningCache cache = example();
  const TuningCache again = TuningCache::parse(cache.to_json(), "x", kHere);
  EXPECT_EQ(again.to_json(), cache.to_json());
  EXPECT_EQ(again.size(), 3);
  const TunedPoint* found = again.at(problem(), 64);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->mode, "sustained");
  ASSERT_EQ(found->kernels.size(), 2u);
  const TunedKernel& kernel = found->kernels[0];
  EXPECT_EQ(kernel.name, "one \"quoted\"\n");
  EXPECT_EQ(kernel.config, "tile=128x256 stages=3");
  EXPECT_EQ(kernel.id, -7);
  EXPECT_TRUE(kernel.sparse && kernel.two_roundings && !kernel.reproducible && !kernel.finalist);
  EXPECT_DOUBLE_EQ(kernel.seconds.median, 1.25e-5);
  EXPECT_EQ(kernel.seconds.count, 7);
  EXPECT_EQ(found->kernels[1].bad, "illegal instruction");
  EXPECT_EQ(again.at(problem(), 65), nullptr);
  EXPECT_EQ(again.at(problem(257), 64), nullptr);
  TuningProblem without_bias = problem();
  without_bias.bias = false;
  EXPECT_EQ(again.at(without_bias, 64), nullptr);
}

// Kernels that write BF16 say nothing about those that write FP32.
TEST(TuningCache, OutputsOfAnotherTypeAreAnotherProblem) {
  TuningProblem wide = problem();
  wide.out = DType::kF32;
  TuningCache cache = example();
  EXPECT_EQ(cache.at(wide, 64), nullptr);
  cache.put(wide, 64, point({timed("wide", 3)}));
  const TuningCache again = TuningCache::parse(cache.to_json(), "x", kHere);
  EXPECT_EQ(again.to_json(), cache.to_json());
  EXPECT_EQ(again.at(wide, 64)->kernels[0].name, "wide");
  EXPECT_EQ(again.at(problem(), 64)->kernels.size(), 2u);
  EXPECT_EQ(wide.desc(64, {}).out, DType::kF32);
  EXPECT_TRUE(TuningProblem::of(wide.desc(64, {})) == wide);
  std::string text = cache.to_json();
  text.replace(text.find("\"out\": \"F32\""), 12, "\"out\": \"F64\"");
  EXPECT_THAT(error_of(text), AllOf(HasSubstr("out: must be BF16 or F32"), HasSubstr("F64")));
}

TEST(TuningCache, FindsNothingOfAnotherMachineAndKeepsIt) {
  for (const TuningMachine& other : {kOlderDriver, kElsewhere}) {
    TuningCache cache = TuningCache::parse(example().to_json(), "x", other);
    EXPECT_EQ(cache.size(), 0);
    EXPECT_EQ(cache.at(problem(), 64), nullptr);
    EXPECT_EQ(cache.points(problem()), nullptr);
    EXPECT_EQ(cache.stale(), other.device == kHere.device ? 3 : 0);
    EXPECT_EQ(TuningCache::parse(cache.to_json(), "x", kHere).size(), 3);
    const std::int64_t stale = cache.stale();
    EXPECT_EQ(cache.drop_stale(), stale);
    EXPECT_EQ(TuningCache::parse(cache.to_json(), "x", kHere).size(), stale == 0 ? 3 : 0);
  }
}

TEST(TuningCache, MergeKeepsOwnFiguresAndTakesTheRest) {
  TuningCache ours(kHere);
  ours.put(problem(), 64, point({timed("ours", 1)}));
  TuningCache theirs(kHere);
  theirs.put(problem(), 64, point({timed("theirs", 2)}));
  theirs.put(problem(), 32, point({timed("theirs", 3)}));
  ours.merge(theirs);
  EXPECT_EQ(ours.at(problem(), 64)->kernels[0].name, "ours");
  EXPECT_EQ(ours.at(problem(), 32)->kernels[0].name, "theirs");
  EXPECT_EQ(ours.size(), 2);
}

TEST(TuningCache, DamagedTextIsOneErrorWithThePlace) {
  const std::string good = example().to_json();
  ASSERT_EQ(error_of(good), "accepted");
  EXPECT_THAT(error_of(good.substr(0, good.size() / 2)), AllOf(HasSubstr("cache.json"), HasSubstr("line 7")));
  EXPECT_THAT(error_of(""), HasSubstr("line 1"));
  EXPECT_THAT(error_of("[]"), HasSubstr("must be an object"));
  EXPECT_THAT(error_of("{}"), HasSubstr("cache.json.file: is missing"));
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const auto at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return error_of(text.replace(at, from.size(), to));
  };
  EXPECT_THAT(changed("\"schema\": 1", "\"schema\": 2"), AllOf(HasSubstr("schema"), HasSubstr("is 2")));
  EXPECT_THAT(changed("\"n\": 256", "\"n\": -1"), HasSubstr("cache.json.machines[0].points[0].n: must be"));
  EXPECT_THAT(changed("\"n\": 256", "\"n\": 2.5"), HasSubstr("is 2.5"));
  EXPECT_THAT(changed("\"n\": 256", "\"n\": 18446744073709551615"), HasSubstr("points[0].n"));
  EXPECT_THAT(changed("\"m\": 64", "\"m\": 0"), HasSubstr("points[0].m"));
  EXPECT_THAT(changed("6:8", "2:9"), AllOf(HasSubstr("points[0].pattern"), HasSubstr("2:9")));
  EXPECT_THAT(changed("\"packed\"", "\"folded\""), HasSubstr("points[0].layout"));
  EXPECT_THAT(changed("\"fp8\"", "\"fp4\""), HasSubstr("points[0].dtype"));
  EXPECT_THAT(changed("\"low\": 1.125e-05", "\"low\": -1"), HasSubstr("kernels[0].low"));
  EXPECT_THAT(changed("\"low\": 1.125e-05", "\"low\": 1e400"), HasSubstr("1e400"));
  EXPECT_THAT(changed("\"id\": -7", "\"id\": \"seven\""), HasSubstr("kernels[0].id"));
  EXPECT_THAT(changed("\"bias\": true", "\"bias\": 1"), HasSubstr("points[0].bias"));
}

TEST(TuningCache, EveryTruncationIsRefusedOrWhole) {
  const std::string good = example().to_json();
  for (std::size_t size = 0; size + 2 < good.size(); ++size)
    EXPECT_NE(error_of(good.substr(0, size)), "accepted") << size;
}

class CacheFile : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("slidesparse_tuning_cache_test_" + std::to_string(::getpid()));
    fs::remove_all(folder_);
    path_ = (folder_ / "deep" / "tuning.json").string();
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
  std::string path_;
};

TEST_F(CacheFile, AMissingFileIsEmptyAndSavingMakesItsFolder) {
  EXPECT_EQ(TuningCache::load(path_, kHere).size(), 0);
  example().save(path_);
  EXPECT_EQ(TuningCache::load(path_, kHere).size(), 3);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder_ / "deep")) names.push_back(entry.path().filename());
  EXPECT_THAT(names, testing::UnorderedElementsAre("tuning.json", "tuning.json.lock"));
}

TEST_F(CacheFile, WritersAtTheSameTimeLoseNothing) {
  std::vector<std::thread> writers;
  writers.reserve(4);
  for (int writer = 0; writer < 4; ++writer) {
    writers.emplace_back([&, writer] {
      TuningCache cache(kHere);
      for (int i = 1; i <= 10; ++i) {
        cache.put(problem(1 + writer), i, point({timed("k", i)}));
        cache.save(path_);
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(TuningCache::load(path_, kHere).size(), 40);
}

TEST_F(CacheFile, ADamagedFileIsNeitherUsedNorOverwritten) {
  fs::create_directories(folder_ / "deep");
  std::ofstream(path_) << "{\"file\": ";
  EXPECT_THROW(TuningCache::load(path_, kHere), Error);
  TuningCache cache = example();
  EXPECT_THROW(cache.save(path_), Error);
  EXPECT_EQ(fs::file_size(path_), 9u);
  fs::remove(path_);
  fs::create_directories(path_);  // a folder in its place
  EXPECT_THROW(cache.save(path_), Error);
}

std::vector<std::pair<std::string, double>> ranked(
    const TunedPoints& points, std::int64_t m,
    const std::function<bool(const TunedKernel&)>& usable = [](const TunedKernel&) { return true; }) {
  std::vector<std::pair<std::string, double>> found;
  for (const TimedKernel& kernel : rank_measured(points, m, usable))
    found.emplace_back(kernel.kernel->name, kernel.seconds);
  return found;
}

using Pair = std::pair<std::string, double>;

TEST(RankMeasured, TakesTheTimesOfATunedM) {
  const TunedPoints points{{16, point({timed("a", 2), timed("b", 1), timed("c", 3)})},
                           {32, point({timed("a", 1), timed("b", 5)})}};
  EXPECT_THAT(ranked(points, 16), ElementsAre(Pair("b", 1), Pair("a", 2), Pair("c", 3)));
  EXPECT_THAT(ranked(points, 32), ElementsAre(Pair("a", 1), Pair("b", 5)));
  EXPECT_EQ(rank_measured(points, 16, [](const TunedKernel&) { return true; })[0].how, "measured");
}

TEST(RankMeasured, BetweenTwoItIsLinearInM) {
  const TunedPoints points{{16, point({timed("a", 1), timed("b", 2), timed("only low", 0.1)})},
                           {32, point({timed("b", 4), timed("a", 9), timed("only high", 0.1)})}};
  for (std::int64_t m = 17; m < 32; ++m) {
    const double share = static_cast<double>(m - 16) / 16;
    const double a = 1 + 8 * share;
    const double b = 2 + 2 * share;
    const auto found = ranked(points, m);
    ASSERT_EQ(found.size(), 2u);
    EXPECT_EQ(found[0].first, a <= b ? "a" : "b");
    EXPECT_DOUBLE_EQ(found[0].second, std::min(a, b));
    EXPECT_DOUBLE_EQ(found[1].second, std::max(a, b));
  }
}

TEST(RankMeasured, NeighboursWithNothingInCommonGiveTheLargerOnesTimes) {
  const TunedPoints points{{16, point({timed("a", 1)})}, {32, point({timed("b", 4)})}};
  EXPECT_THAT(ranked(points, 20), ElementsAre(Pair("b", 4)));
}

TEST(RankMeasured, OutsideOfWhatWasTuned) {
  const TunedPoints points{{16, point({timed("a", 1)})}, {32, point({timed("b", 4), timed("a", 6)})}};
  EXPECT_THAT(ranked(points, 1), ElementsAre(Pair("a", 1)));
  EXPECT_THAT(ranked(points, 48), ElementsAre(Pair("b", 6), Pair("a", 9)));
  EXPECT_THAT(ranked({}, 48), testing::IsEmpty());
}

TEST(RankMeasured, BadAndUnusableKernelsDoNotCount) {
  const TunedPoints points{{16, point({timed("a", 1), bad("b", "wrong")})},
                           {24, point({bad("a", "wrong")})},
                           {32, point({timed("a", 3), timed("b", 1)})}};
  EXPECT_THAT(ranked(points, 24), ElementsAre(Pair("a", 2)));  // 24 has nothing: between 16 and 32
  EXPECT_THAT(ranked(points, 16), ElementsAre(Pair("a", 1)));
  EXPECT_THAT(ranked(points, 16, [](const TunedKernel& kernel) { return kernel.name == "b"; }),
              ElementsAre(Pair("b", 1)));
  EXPECT_THAT(ranked(points, 16, [](const TunedKernel&) { return false; }), testing::IsEmpty());
}

TEST(RankMeasured, TiesHaveOneOrder) {
  TunedKernel second = timed("a", 1);
  second.config = "2";
  TunedKernel first = timed("a", 1);
  first.config = "1";
  const TunedPoints points{{16, point({timed("b", 1), second, first})}};
  const auto found = rank_measured(points, 16, [](const TunedKernel&) { return true; });
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].kernel->config, "1");
  EXPECT_EQ(found[1].kernel->config, "2");
  EXPECT_EQ(found[2].kernel->name, "b");
}

}  // namespace
}  // namespace slidesparse
