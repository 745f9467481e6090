// The program as others script against it: forms, exit codes, tables, one-line errors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/cpu.h"

namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

struct Result {
  int code = -1;
  std::string out;
  std::string err;
};

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string quote(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

class Cli : public testing::Test {
 protected:
  // One small model for all tests: the shapes of SmolLM2 with one layer.
  static void SetUpTestSuite() {
    root_ = fs::temp_directory_path() / ("slidesparse_cli_test_" + std::to_string(::getpid()));
    fs::create_directories(root_);
    ASSERT_EQ(run({"random-model", "smollm2-135m", path("model"), "--layers", "1", "--seed", "3"}).code, 0);
    ASSERT_EQ(run({"convert", path("model"), path("packed"), "--pattern", "6:8", "--dtype", "int8"}).code, 0);
    std::ofstream(path("text.txt")) << std::string(40, 'x') + " some text to measure, some more of it.\n";
  }
  static void TearDownTestSuite() { fs::remove_all(root_); }

  static std::string path(const std::string& name) { return (root_ / name).string(); }

  static Result run(const std::vector<std::string>& arguments) {
    // What the CPU does, whatever cards there are.
    std::string command = "CUDA_VISIBLE_DEVICES= " + quote(SLIDESPARSE_PROGRAM);
    for (const std::string& argument : arguments) command += " " + quote(argument);
    const std::string out = path("stdout");
    const std::string err = path("stderr");
    const int status =
        std::system((command + " >" + quote(out) + " 2>" + quote(err) + " </dev/null").c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128, read_file(out), read_file(err)};
  }

  // Failed with this code and exactly one error line that holds all of `parts`.
  static void expect_error(const Result& result, int code, const std::vector<std::string>& parts) {
    EXPECT_EQ(result.code, code) << result.err;
    const auto begin = result.err.find("error: ");
    ASSERT_NE(begin, std::string::npos) << result.err;
    const std::string line = result.err.substr(begin, result.err.find('\n', begin) - begin);
    for (const std::string& part : parts) EXPECT_THAT(line, HasSubstr(part));
    EXPECT_EQ(result.err.find("error: ", begin + 1), std::string::npos) << result.err;
  }

  static fs::path root_;
};
fs::path Cli::root_;

TEST_F(Cli, EveryCommandHasHelpWithAnExample) {
  const Result top = run({"--help"});
  EXPECT_EQ(top.code, 0);
  for (const char* command : {"info", "convert", "unpack", "inspect", "random-model", "tokenize", "eval",
                              "generate", "bench", "tune", "pareto", "plan", "sweep"}) {
    EXPECT_THAT(top.out, HasSubstr(command));
    const Result help = run({command, "--help"});
    EXPECT_EQ(help.code, 0);
    EXPECT_THAT(help.out, HasSubstr(std::string("Example: slidesparse ") + command));
  }
  EXPECT_THAT(top.out, HasSubstr("Exit codes: 0 done, 1 failed, 2 wrong use"));
}

TEST_F(Cli, PlansAreSweptAndTheirErrorsNameThem) {
  expect_error(run({"plan"}), 2, {"subcommand"});
  expect_error(run({"plan", "--card", "voodoo2"}), 2, {"voodoo2", "rtx4090"});
  expect_error(run({"plan", "--card", "h200", "mission"}), 2, {"--card"});
  EXPECT_THAT(run({"plan", "--card", "h200"}).out, HasSubstr("1032 cells:"));
  expect_error(run({"plan", "mission", "--memory-limit", "much"}), 2, {"--memory-limit much"});
  expect_error(run({"plan", "mission", "--models", "nothing"}), 1, {"nothing"});
  const std::string database = path("results.db");
  expect_error(run({"sweep", "--db", database}), 2, {"slidesparse plan mission"});
  expect_error(run({"sweep", path("text.txt"), "--db", database}), 1, {"text.txt"});
  expect_error(run({"sweep", "--status", "--db", database}), 1, {"results.db"});
  EXPECT_THAT(run({"plan", "mission", "--no-convert", "--dtype", "fp8"}).out, Not(HasSubstr("convert\": {")));
  const Result mission = run({"plan", "mission"});
  EXPECT_EQ(mission.code, 0);
  std::ofstream(path("mission.json")) << mission.out;
  const std::vector<std::string> sweep{"sweep", path("mission.json"), "--db", database};
  expect_error(run(sweep), 1, {"mission", "card", "slidesparse plan cpu"});
  expect_error(run({"sweep", path("mission.json"), "--db", database, "--deadline", "soon"}), 2,
               {"--deadline soon"});
  const Result listed = run({"sweep", path("mission.json"), "--db", database, "--dry-run"});
  EXPECT_EQ(listed.code, 0);
  EXPECT_THAT(listed.out, HasSubstr("mission: 1032 cells, 0 measured, 0 given up, 1032 open, about"));
  EXPECT_FALSE(fs::exists(database));
  // Nothing of it can run in no time at all, but everything around it does.
  std::ofstream(path("cpu.json")) << run({"plan", "cpu"}).out;
  const Result stopped =
      run({"sweep", path("cpu.json"), "--db", database, "--deadline", "0.001s", "--cache", path("t.json")});
  EXPECT_EQ(stopped.code, 0) << stopped.err;
  EXPECT_THAT(stopped.out, HasSubstr("0 of 29 cells measured, 0 given up, 29 open; stopped by --deadline"));
  EXPECT_THAT(run({"sweep", "--status", "--db", database}).out, HasSubstr("plan cpu on"));
}

TEST_F(Cli, WrongUseExitsWithTwo) {
  expect_error(run({}), 2, {"subcommand"});
  expect_error(run({"frobnicate"}), 2, {"frobnicate"});
  expect_error(run({"convert", path("model")}), 2, {"DST"});
  expect_error(run({"--isa", "mmx", "info"}), 2, {"mmx", "avx512", "avx2", "portable"});
  expect_error(run({"eval", path("packed")}), 2, {"--text", "--hellaswag"});
  expect_error(run({"bench", "gemm"}), 2, {"--shape", "--model"});
  expect_error(run({"generate", path("packed"), "x", "--temperature", "nan"}), 2, {"temperature"});
  expect_error(run({"generate", path("packed"), "x", "--repetition-penalty", "0"}), 2,
               {"repetition penalty 0", "from 0.01 to 100"});
  expect_error(run({"generate", path("packed"), "x", "--min-p", "1.5"}), 2, {"min-p 1.5", "from 0"});
  const std::vector<std::string> convert{"convert", path("model"), path("none"), "--pattern", "6:8",
                                         "--dtype", "int8",        "--head",     "fp4"};
  expect_error(run(convert), 2, {"--head fp4", "bf16", "int8"});
  expect_error(run({"bench", "decode", "--model", "llama3.2-1b", "--dtype", "int8", "--patterns", "6:8",
                    "--head", "fp4"}),
               2, {"--head fp4"});
}

TEST_F(Cli, TheHeadIsQuantisedWhenAModelIsLoaded) {
  const std::string json = path("head.json");
  for (const char* head : {"int8", "fp8"}) {
    for (const char* phase : {"prefill", "decode"}) {
      const Result bench = run({"bench", phase, path("packed"), "--head", head, "--device", "cpu", "--m", "3",
                                "--runs", "1", "--json", json, "--quiet"});
      EXPECT_EQ(bench.code, 0) << bench.err;
      EXPECT_EQ(nlohmann::json::parse(read_file(json))["rows"][0]["head"], head);
    }
    const Result text = run({"generate", path("packed"), "ab", "--max-tokens", "2", "--head", head,
                             "--device", "cpu", "--explain"});
    EXPECT_EQ(text.code, 0) << text.err;
    EXPECT_THAT(text.err, HasSubstr(std::string("lm_head and its like: ") + head));
    const Result tuned = run({"tune", path("packed"), "--head", head, "--device", "cpu", "--m", "65",
                              "--window", "0.001", "--cache", path("head_tuned.json"), "--quiet"});
    EXPECT_EQ(tuned.code, 0) << tuned.err;
    EXPECT_THAT(tuned.out, HasSubstr("/head "));
    EXPECT_THAT(read_file(path("head_tuned.json")), HasSubstr("\"out\": \"F32\""));
  }
  expect_error(run({"generate", path("packed"), "ab", "--head", "fp4"}), 2,
               {"--head fp4", "bf16, int8, fp8"});
  expect_error(run({"tune", "--shape", "8,8", "--head", "fp8"}), 2, {"--head fp8", "DIR or --model"});
  expect_error(
      run({"convert", path("model"), path("none"), "--pattern", "6:8", "--dtype", "int8", "--head", "fp8"}),
      2, {"--head fp8", "bf16 or int8", "when they load it"});
}

TEST_F(Cli, TuneMeasuresOnceAndKeepsItsFile) {
  const std::vector<std::string> command{"tune",           "--shape",  "48,96", "--dtype",  "int8",
                                         "--patterns",     "6:8",      "--m",   "65",       "--cache",
                                         path("t/c.json"), "--device", "cpu",   "--window", "0.001"};
  const Result first = run(command);
  EXPECT_EQ(first.code, 0) << first.err;
  EXPECT_THAT(first.out, HasSubstr("1 problems measured, 0 were in the cache"));
  const Result second = run(command);
  EXPECT_THAT(second.out, HasSubstr("0 problems measured, 1 were in the cache"));
  const auto json = nlohmann::json::parse(read_file(path("t/c.json")));
  EXPECT_EQ(json["machines"][0]["points"][0]["n"], 48);
  EXPECT_GT(json["machines"][0]["points"][0]["kernels"][0]["seconds"], 0);
  // Figures of another version are counted and not used.
  std::string text = read_file(path("t/c.json"));
  const std::string program = "\"program\": \"";
  text.insert(text.find(program) + program.size(), "0.0.");
  std::ofstream(path("t/c.json")) << text;
  const Result stale = run(command);
  EXPECT_THAT(stale.out, HasSubstr("1 measurements of other versions"));
  EXPECT_THAT(stale.out, HasSubstr("1 problems measured"));
  std::ofstream(path("t/c.json")) << "{";
  expect_error(run(command), 1, {"c.json", "line 1"});
  expect_error(run({"tune"}), 2, {"DIR", "--model", "--shape"});
  expect_error(run({"tune", "--shape", "8,8", "--device", "tpu"}), 2, {"--device tpu", "cuda"});
  expect_error(run({"tune", "--shape", "8,8", "--m", "0"}), 2, {"--m 0"});
  expect_error(run({"tune", "--shape", "8,8", "--backend", "blas"}), 2, {"blas", "cpu"});
}

TEST_F(Cli, BenchGemmExplainsItsChoice) {
  const Result result = run({"bench", "gemm", "--shape", "48,96", "--m", "65", "--min-seconds", "0.001",
                             "--device", "cpu", "--explain", "--quiet"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("chosen: "));
  EXPECT_THAT(result.out, HasSubstr("not cpu: for split weights"));
}

TEST_F(Cli, BenchGemmTakesADirectorysOwnWeights) {
  const std::vector<std::string> command{
      "bench", "gemm",   path("packed"),   "--m",     "65", "--min-seconds", "0.001",    "--device",
      "cpu",   "--json", path("own.json"), "--layer", "0",  "--weights",     "smallest", "--quiet"};
  const Result result = run(command);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("6:8, own"));
  EXPECT_THAT(result.out, HasSubstr("weights kept (smallest)"));
  const auto json = nlohmann::json::parse(read_file(path("own.json")));
  int own = 0;
  for (const auto& row : json.at("rows")) {
    EXPECT_EQ(row.at("check"), "ok");
    EXPECT_EQ(row.at("weights"), row.at("pattern") == "dense" ? "random" : "own");
    own += row.at("weights") == "own" ? 1 : 0;
  }
  EXPECT_EQ(own, 4);  // qkv, o, gate_up, down
  EXPECT_EQ(json.at("weights").at("policy"), "smallest");
  EXPECT_EQ(json.at("weights").at("kept").at(0).at("forms").size(), 1u);
  expect_error(run({"bench", "gemm", path("packed"), "--layer", "99"}), 2, {"--layer 99", "layers 0 to"});
  expect_error(run({"bench", "gemm", path("packed"), "--weights", "tiny"}), 2,
               {"--weights tiny", "balanced"});
}

TEST_F(Cli, CommandsThatRunAModelExplainTheirKernels) {
  const std::string cache = path("linears.json");
  const Result tuned = run({"tune", path("packed"), "--m", "1,65", "--device", "cpu", "--cache", cache,
                            "--window", "0.001", "--verify", "2", "--quiet"});
  ASSERT_EQ(tuned.code, 0) << tuned.err;
  EXPECT_THAT(tuned.out, HasSubstr("worst of 2 cells"));
  EXPECT_THAT(tuned.out, HasSubstr("geometric mean"));
  const Result result =
      run({"generate", path("packed"), "ab", "--max-tokens", "2", "--cache", cache, "--explain"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("q_proj and its like"));
  EXPECT_THAT(result.err, HasSubstr("chosen: measured"));  // o and down are tuned as they are run
  EXPECT_THAT(result.err, HasSubstr("% of the limit"));
  const Result decode = run({"bench", "decode", path("packed"), "--steps", "2", "--runs", "1", "--explain"});
  ASSERT_EQ(decode.code, 0) << decode.err;
  // AVX2 has no kernel that expands rows in registers.
  EXPECT_THAT(decode.err,
              HasSubstr(slidesparse::active_isa() == slidesparse::Isa::kAvx2 ? "chosen: many tokens"
                                                                             : "chosen: few tokens"));
  expect_error(run({"generate", path("packed"), "ab", "--cache", path("none.json")}), 1,
               {"none.json", "tune --device cpu"});
}

TEST_F(Cli, PatternsThatDoNotExistAreRefusedWithTheList) {
  expect_error(run({"convert", path("model"), path("none"), "--pattern", "2:8", "--dtype", "int8"}), 2,
               {"2:8", "6:8", "14:16"});
  EXPECT_FALSE(fs::exists(path("none")));
}

TEST_F(Cli, InfoSaysWhatThereIs) {
  const Result info = run({"info"});
  EXPECT_EQ(info.code, 0);
  for (const char* part : {"slidesparse 0.", "processor:", "kernels:", "CUDA:", "reference", "cpu"})
    EXPECT_THAT(info.out, HasSubstr(part));
}

TEST_F(Cli, ConvertRefusesAnExistingTargetUnlessForced) {
  expect_error(run({"convert", path("model"), path("packed"), "--pattern", "6:8", "--dtype", "int8"}), 1,
               {"packed", "--force"});
  const Result forced =
      run({"convert", path("model"), path("packed"), "--pattern", "6:8", "--dtype", "int8", "--force"});
  EXPECT_EQ(forced.code, 0) << forced.err;
}

TEST_F(Cli, ConvertRefusesMissingAndEqualPaths) {
  expect_error(run({"convert", path("nowhere"), path("x"), "--pattern", "6:8", "--dtype", "int8"}), 1,
               {"nowhere"});
  expect_error(
      run({"convert", path("model"), path("model"), "--pattern", "6:8", "--dtype", "int8", "--force"}), 2,
      {"model"});
  EXPECT_TRUE(fs::exists(root_ / "model" / "config.json"));
}

TEST_F(Cli, BenchOfSplitWeightsNamesTheLayout) {
  const Result result =
      run({"--quiet", "bench", "prefill", "--model", "smollm2-135m", "--patterns", "dense,6:8", "--layout",
           "split", "--m", "3", "--runs", "1", "--json", path("split.json")});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("6:8 split"));
  const auto rows = nlohmann::json::parse(read_file(path("split.json")))["rows"];
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1]["pattern"], "6:8 split");
  EXPECT_EQ(rows[1]["kept"], 6);
  EXPECT_LT(rows[1]["weight_bytes"], rows[0]["weight_bytes"]);
}

TEST_F(Cli, ConvertTakesPatternsMethodsAndLayouts) {
  // Words of many kinds: inputs that are all alike are reproduced exactly, and the error would be rounding.
  std::ofstream text(path("long.txt"));
  for (int i = 0; i < 400; ++i) text << "word" << i % 37 << " likes word" << i * 7 % 53 << "; ";
  text.close();
  const std::vector<std::string> command{"convert",
                                         path("model"),
                                         path("surgery"),
                                         "--pattern",
                                         "6:8/split,*.down_proj=8:10/slide,*.o_proj=dense",
                                         "--dtype",
                                         "fp8",
                                         "--method",
                                         "sparsegpt",
                                         "--calibration",
                                         path("long.txt"),
                                         "--samples",
                                         "4",
                                         "--sample-length",
                                         "64"};
  const Result result = run(command);
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("calibration on 256 tokens"));
  const auto section = nlohmann::json::parse(read_file(path("surgery/config.json")))["slidesparse"];
  EXPECT_EQ(section["layout"], "split");
  EXPECT_EQ(section["method"], "sparsegpt");
  EXPECT_THAT(section["calibration"].get<std::string>(), HasSubstr("long.txt"));
  const auto& down = section["exceptions"]["model.layers.0.mlp.down_proj"];
  EXPECT_EQ(down["pattern"], "8:10");
  EXPECT_EQ(down["layout"], "slide");
  EXPECT_EQ(section["exceptions"]["model.layers.0.self_attn.o_proj"]["pattern"], "dense");
  const auto report = nlohmann::json::parse(read_file(path("surgery/slidesparse_report.json")));
  EXPECT_GT(report["layers"][0]["error"], 0);
  EXPECT_LE(report["layers"][0]["error"], report["layers"][0]["error_masked"]);
  EXPECT_EQ(run({"inspect", path("surgery")}).code, 0);
  EXPECT_EQ(run({"eval", path("surgery"), "--text", path("text.txt")}).code, 0);

  const auto convert = [&](const std::string& patterns, const std::vector<std::string>& more) {
    std::vector<std::string> all{"convert", path("model"), path("none"), "--pattern",
                                 patterns,  "--dtype",     "int8"};
    all.insert(all.end(), more.begin(), more.end());
    return run(all);
  };
  expect_error(convert("*.down_proj=8:10", {}), 2, {"the default is missing"});
  expect_error(convert("6:8,4:6", {}), 2, {"4:6 is a second default"});
  expect_error(convert("6:8/diagonal", {}), 2, {"diagonal", "slide and split"});
  expect_error(convert("6:8", {"--method", "wanda"}), 2, {"--calibration FILE"});
  expect_error(convert("6:8", {"--method", "awp"}), 2, {"none, magnitude, wanda and sparsegpt"});
  expect_error(convert("6:8", {"--calibration", path("long.txt")}), 2,
               {"--method magnitude looks at weights only"});
}

TEST_F(Cli, ConvertChoosesPatternsForATargetSpeed) {
  std::ofstream text(path("sentences.txt"));
  for (int i = 0; i < 400; ++i) text << "word" << i % 37 << " likes word" << i * 7 % 53 << "; ";
  text.close();
  std::ofstream(path("card.json"))
      << R"({"source": "a card", "slide": {"8:10": 1.1, "6:8": 1.2, "4:6": 1.4}})";
  const auto convert = [&](const std::string& target, const std::vector<std::string>& more) {
    std::vector<std::string> all{"convert", path("model"), path(target), "--dtype", "int8"};
    all.insert(all.end(), more.begin(), more.end());
    return run(all);
  };
  const std::vector<std::string> calibrated{"--method",  "wanda", "--calibration",   path("sentences.txt"),
                                            "--samples", "4",     "--sample-length", "64"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), calibrated.begin(), calibrated.end());
    return more;
  };
  const Result result = convert("for-speed", with({"--target-speed", "1.15", "--speeds", path("card.json"),
                                                   "--sensitivities", path("sensitivities.json")}));
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("sensitivities: each fused group alone in 6:8 slide"));
  EXPECT_THAT(result.out, HasSubstr("patterns for 1.15 times dense"));
  EXPECT_THAT(result.out, HasSubstr("a card"));
  const auto report = nlohmann::json::parse(read_file(path("for-speed/slidesparse_report.json")));
  EXPECT_GE(report["budget"]["predicted_speed"].get<double>(), 1.15);
  EXPECT_TRUE(fs::exists(path("for-speed/slidesparse_sensitivities.json")));
  EXPECT_TRUE(fs::exists(path("sensitivities.json")));
  EXPECT_EQ(run({"inspect", path("for-speed")}).code, 0);
  EXPECT_EQ(run({"eval", path("for-speed"), "--text", path("text.txt")}).code, 0);
  EXPECT_EQ(run({"unpack", path("for-speed"), path("for-speed-unpacked")}).code, 0);

  expect_error(convert("x", {}), 2, {"--pattern is required, or --target-speed"});
  expect_error(convert("x", {"--pattern", "6:8", "--target-speed", "1.1"}), 2, {"leave --pattern out"});
  expect_error(convert("x", {"--pattern", "6:8", "--speeds", path("card.json")}), 2,
               {"--speeds: belongs to --target-speed"});
  expect_error(convert("x", {"--target-speed", "1.1"}), 2, {"use wanda or sparsegpt"});
  expect_error(convert("x", with({"--target-speed", "fast"})), 2, {"--target-speed", "fast"});
  expect_error(convert("x", with({"--target-speed", "1.5", "--speeds", path("card.json")})), 2,
               {"--target-speed 1.5", "reach 1 to 1.4000 times dense"});
  expect_error(convert("x", with({"--target-speed", "0.5"})), 2, {"--target-speed 0.5", "1 to 1.365"});
}

TEST_F(Cli, ParetoComparesSettingsAndKeepsWhatItMeasured) {
  std::ofstream(path("calibration.txt")) << std::string(3000, 'b') + " and so on.\n";
  std::ofstream(path("speed.json"))
      << R"({"source": "a guess", "slide": {"6:8": 1.1, "4:6": 1.3}, "split": {"6:8": 1.2}})";
  const std::vector<std::string> command{"pareto",          path("model"),
                                         "--work",          path("work"),
                                         "--text",          path("text.txt"),
                                         "--calibration",   path("calibration.txt"),
                                         "--samples",       "3",
                                         "--sample-length", "32",
                                         "--setting",       "none dense",
                                         "--setting",       "magnitude 6:8",
                                         "--setting",       "wanda 6:8/split",
                                         "--setting",       "wanda 4:6",
                                         "--statistics",    path("seen"),
                                         "--speed",         path("speed.json"),
                                         "--plot",          path("plot.svg"),
                                         "--json",          path("points.json")};
  const Result first = run(command);
  EXPECT_EQ(first.code, 0) << first.err;
  EXPECT_THAT(first.out, HasSubstr("| wanda 6:8/split"));
  EXPECT_THAT(first.out, HasSubstr("a guess"));
  EXPECT_THAT(first.err, HasSubstr("wanda 6:8/split: perplexity"));
  const auto json = nlohmann::json::parse(read_file(path("points.json")));
  ASSERT_EQ(json["points"].size(), 4u);
  EXPECT_TRUE(fs::exists(path("seen/config.json")));
  EXPECT_EQ(json["points"][0]["predicted_speed"], 1.0);
  EXPECT_NEAR(json["points"][2]["predicted_speed"].get<double>(), 1.2, 1e-9);
  EXPECT_GT(json["points"][1]["perplexity"], 1);
  EXPECT_THAT(read_file(path("plot.svg")), HasSubstr("<svg"));
  EXPECT_THAT(read_file(path("plot.svg")), HasSubstr("wanda 6:8/split"));
  // Only results are left, and they are not measured again.
  for (const auto& item : fs::directory_iterator(path("work")))
    EXPECT_EQ(item.path().filename(), "pareto.json");
  const Result second = run(command);
  EXPECT_EQ(second.code, 0);
  EXPECT_EQ(second.out, first.out);
  EXPECT_EQ(second.err.find("wanda 6:8/split: perplexity"), std::string::npos);

  // Other speeds need no other measurement.
  std::ofstream(path("speed2.json"))
      << R"({"source": "another", "slide": {"6:8": 1.2, "4:6": 1.4}, "split": {"6:8": 1.25}})";
  std::vector<std::string> faster = command;
  *std::find(faster.begin(), faster.end(), path("speed.json")) = path("speed2.json");
  const Result other_speeds = run(faster);
  EXPECT_EQ(other_speeds.code, 0) << other_speeds.err;
  EXPECT_EQ(other_speeds.err.find("perplexity"), std::string::npos);
  const auto with_others = nlohmann::json::parse(read_file(path("points.json")))["points"];
  EXPECT_NEAR(with_others[2]["predicted_speed"].get<double>(), 1.25, 1e-9);
  EXPECT_EQ(with_others[2]["perplexity"], json["points"][2]["perplexity"]);

  // Points from a machine with a card are shown where there is none.
  const auto known = nlohmann::json::parse(read_file(path("work/pareto.json")));
  nlohmann::json from_card;
  for (const auto& item : known.items())
    from_card[item.key().ends_with(" on a card") ? item.key() : item.key() + " on a card"] = item.value();
  fs::create_directory(path("carried"));
  std::ofstream(path("carried/pareto.json")) << from_card.dump();
  std::vector<std::string> carried = command;
  *std::find(carried.begin(), carried.end(), path("work")) = path("carried");
  carried.insert(carried.end(), {"--device", "cuda"});
  const Result shown = run(carried);
  EXPECT_EQ(shown.code, 0) << shown.err;
  EXPECT_EQ(shown.out, first.out);

  // HellaSwag beside it: what was measured without is of no use, what was measured with it is kept.
  std::ofstream(path("tasks.txt")) << "A man sits. he\n3\nruns.\nswims.\nflies.\nstands up.\n"
                                      "A dog eats. it\n0\nbarks.\nsings.\nreads.\nwrites.\n";
  std::vector<std::string> with_tasks = command;
  with_tasks.insert(with_tasks.end(), {"--hellaswag", path("tasks.txt")});
  const Result tasks = run(with_tasks);
  EXPECT_EQ(tasks.code, 0) << tasks.err;
  EXPECT_THAT(tasks.out, HasSubstr("acc_norm"));
  EXPECT_THAT(tasks.err, HasSubstr("wanda 6:8/split: perplexity"));
  const auto scored = nlohmann::json::parse(read_file(path("points.json")))["points"];
  EXPECT_EQ(scored[1]["perplexity"], json["points"][1]["perplexity"]);
  for (const auto& point : scored) {
    const double share = point["acc_norm"];
    EXPECT_TRUE(share == 0 || share == 0.5 || share == 1) << share;
    EXPECT_DOUBLE_EQ(point["acc_norm_error"], share == 0.5 ? 0.5 : 0.0);
  }
  const Result tasks_again = run(with_tasks);
  EXPECT_EQ(tasks_again.out, tasks.out);
  EXPECT_EQ(tasks_again.err.find("perplexity"), std::string::npos);
  with_tasks.insert(with_tasks.end(), {"--max-tasks", "1"});
  EXPECT_EQ(run(with_tasks).code, 0);
  for (const auto& point : nlohmann::json::parse(read_file(path("points.json")))["points"])
    EXPECT_TRUE(point["acc_norm"] == 0 || point["acc_norm"] == 1);

  // Targets beside patterns: two of them share the sensitivities.
  std::vector<std::string> targets = command;
  targets.insert(targets.end(), {"--setting", "wanda speed=1.1", "--setting", "wanda speed=1.2/slide"});
  const Result third = run(targets);
  EXPECT_EQ(third.code, 0) << third.err;
  const auto all = nlohmann::json::parse(read_file(path("points.json")))["points"];
  ASSERT_EQ(all.size(), 6u);
  EXPECT_GE(all[4]["predicted_speed"].get<double>(), 1.1);
  EXPECT_GE(all[5]["predicted_speed"].get<double>(), 1.2);
  EXPECT_EQ(std::distance(fs::directory_iterator(path("work")), fs::directory_iterator()), 2);

  const auto refused = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words{"pareto",     path("model"), "--work",
                                   path("work"), "--text",      path("text.txt")};
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  };
  expect_error(refused({"--setting", "sparsegpt"}), 2, {"a method and patterns are needed"});
  expect_error(refused({"--setting", "sparsegpt 6:8"}), 2, {"--calibration FILE"});
  expect_error(refused({"--setting", "sparsegpt speed=fast"}), 2, {"speed=fast", "a number is needed"});
  expect_error(refused({"--setting", "magnitude speed=1.1"}), 2, {"use wanda or sparsegpt"});
  expect_error(refused({"--setting", "magnitude 6:8", "--rounding", "up"}), 2, {"--rounding \"up\""});
  expect_error(refused({"--setting", "magnitude 6:8", "--device", "tpu"}), 2, {"tpu"});
  expect_error(refused({"--setting", "magnitude 6:8", "--hellaswag", path("text.txt")}), 1, {"text.txt"});
  std::ofstream(path("bad.json")) << R"({"slide": {"6:8": -1}})";
  expect_error(refused({"--setting", "magnitude 6:8", "--speed", path("bad.json")}), 1,
               {"bad.json: slide", "6:8"});
}

TEST_F(Cli, InspectShowsPatternAndBytes) {
  const Result table = run({"inspect", path("packed")});
  EXPECT_EQ(table.code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("6:8"));
  EXPECT_THAT(table.out, HasSubstr("model.layers.0.mlp.down_proj"));
  const Result json = run({"inspect", path("packed"), "--json"});
  ASSERT_EQ(json.code, 0) << json.err;
  const auto parsed = nlohmann::json::parse(json.out);
  EXPECT_TRUE(parsed.at("tensors").is_array());
  // 6:8 at 8 bits: 0.828 B a weight, plus 2 B of scale a row.
  EXPECT_NEAR(parsed.at("linear_share_of_dense").get<double>(), 0.828, 0.001);
}

TEST_F(Cli, UnpackGivesBackAModelThatConvertTakes) {
  ASSERT_EQ(run({"unpack", path("packed"), path("unpacked")}).code, 0);
  const Result again = run({"convert", path("unpacked"), path("again"), "--pattern", "6:8", "--dtype", "int8",
                            "--method", "none"});
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(read_file(root_ / "packed" / "model.safetensors"),
            read_file(root_ / "again" / "model.safetensors"));
}

TEST_F(Cli, TokenizeThereAndBack) {
  const Result ids = run({"tokenize", path("packed"), "--text", path("text.txt")});
  ASSERT_EQ(ids.code, 0) << ids.err;
  std::ofstream(path("ids.txt")) << ids.out;
  const Result back = run({"tokenize", path("packed"), "--text", path("ids.txt"), "--decode"});
  EXPECT_EQ(back.code, 0) << back.err;
  EXPECT_EQ(back.out, read_file(path("text.txt")));
  std::ofstream(path("ids.txt")) << "5\n-7\n";
  expect_error(run({"tokenize", path("packed"), "--text", path("ids.txt"), "--decode"}), 1, {"line 2", "-7"});
}

TEST_F(Cli, EvalPrintsATableAndWritesJson) {
  const Result table = run(
      {"eval", path("packed"), "--text", path("text.txt"), "--window", "16", "--json", path("eval.json")});
  ASSERT_EQ(table.code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("6:8 (keeps 6, zeroes 2)"));
  const auto json = nlohmann::json::parse(read_file(path("eval.json")));
  EXPECT_EQ(json.at("schema"), 1);
  EXPECT_GT(json.at("rows").at(0).at("perplexity").at("perplexity").get<double>(), 1.0);
  expect_error(run({"eval", path("packed"), "--text", path("no.txt")}), 1, {"no.txt"});
}

TEST_F(Cli, GenerateStreamsTextAndIsRepeatable) {
  const std::vector<std::string> arguments{
      "generate", path("packed"), "ab", "--max-tokens", "5", "--temperature", "0.8", "--seed", "7"};
  const Result first = run(arguments);
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_THAT(first.out, testing::StartsWith("ab"));
  EXPECT_THAT(first.err, HasSubstr("tokens/s"));
  EXPECT_EQ(run(arguments).out, first.out);
  expect_error(run({"generate", path("packed"), ""}), 2, {"prompt"});
}

TEST_F(Cli, GenerateTellsLogprobsAfterTheText) {
  std::vector<std::string> arguments{"generate", path("packed"), "ab",     "--max-tokens",
                                     "5",        "--ignore-eos", "--quiet"};
  const Result plain = run(arguments);
  ASSERT_EQ(plain.code, 0) << plain.err;
  arguments.insert(arguments.end(), {"--logprobs", "2"});
  const Result told = run(arguments);
  ASSERT_EQ(told.code, 0) << told.err;
  EXPECT_THAT(told.out, testing::StartsWith(plain.out));
  const std::string lines = told.out.substr(plain.out.size());
  EXPECT_EQ(std::ranges::count(lines, '\n'), 5);
  const std::string one = "[0-9]+ '[^\n]*' -[0-9.]+";
  EXPECT_THAT(lines, testing::MatchesRegex("([0-9]+: " + one + "; " + one + ", " + one + "\n)+"));
  expect_error(run({"generate", path("packed"), "ab", "--logprobs", "21"}), 2, {"--logprobs", "20"});
}

TEST_F(Cli, GenerateStaysWithinMaxModelLen) {
  const Result result = run({"generate", path("packed"), "ab", "--max-tokens", "50", "--ignore-eos",
                             "--max-model-len", "6", "--deterministic"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("[2 prompt tokens"));
  EXPECT_THAT(result.err, HasSubstr("4 new tokens"));
  EXPECT_THAT(result.err, HasSubstr("ended by max model length]"));
  expect_error(run({"generate", path("packed"), "abcdef", "--max-model-len", "6"}), 1,
               {"the prompt has 6 tokens", "max_model_len 6"});
  expect_error(run({"generate", path("packed"), "ab", "--max-model-len", "99999"}), 2,
               {"max_model_len 99999", "8192 positions"});
}

TEST_F(Cli, BenchRowsNameTheirKernel) {
  const Result gemm = run({"bench", "gemm", "--shape", "256,512", "--dtype", "int8", "--patterns",
                           "dense,6:8", "--m", "1,8", "--min-seconds", "0.01", "--json", path("gemm.json")});
  ASSERT_EQ(gemm.code, 0) << gemm.err;
  const auto rows = nlohmann::json::parse(read_file(path("gemm.json"))).at("rows");
  ASSERT_EQ(rows.size(), 4u);
  for (const auto& row : rows) {
    EXPECT_EQ(row.at("check"), "ok");
    EXPECT_THAT(row.at("kernel").get<std::string>(), HasSubstr("cpu"));
    EXPECT_GT(row.at("seconds").at("median").get<double>(), 0.0);
    EXPECT_EQ(row.at("sparse_share").get<double>(), row.at("pattern") == "dense" ? 0.0 : 1.0);
  }
  EXPECT_THAT(gemm.out, HasSubstr("DENSE"));

  const Result decode = run({"bench", "decode", path("packed"), "--m", "1,2", "--steps", "2", "--runs", "1",
                             "--json", path("decode.json")});
  ASSERT_EQ(decode.code, 0) << decode.err;
  const auto steps = nlohmann::json::parse(read_file(path("decode.json"))).at("rows");
  ASSERT_EQ(steps.size(), 2u);
  EXPECT_EQ(steps[1].at("sequences"), 2);
  EXPECT_EQ(steps[1].at("pattern"), "6:8");
  expect_error(run({"bench", "prefill", "--model", "gpt-17"}), 2, {"gpt-17", "qwen2.5-7b"});
  expect_error(run({"bench", "gemm", "--shape", "12"}), 2, {"12"});
}

TEST_F(Cli, UnfinishedDirectoriesDoNotOpen) {
  fs::create_directories(root_ / "half");
  fs::copy(root_ / "packed", root_ / "half",
           fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  fs::remove(root_ / "half" / "config.json");
  expect_error(run({"inspect", path("half")}), 1, {"half", "config.json"});
}

}  // namespace
