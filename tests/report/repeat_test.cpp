#include "report/repeat.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <utility>

#include "io/test_files.h"
#include "report/report.h"
#include "report/test_database.h"

namespace slidesparse {
namespace {

ReportCell cell_of(const std::string& phase, const std::string& backend, const std::string& pattern,
                   const std::string& options) {
  ReportCell cell;
  cell.phase = phase;
  cell.model = "smollm2-135m";
  cell.dtype = "int8";
  cell.backend = backend;
  cell.pattern = pattern;
  cell.layout = "slide";
  cell.m = 8;
  cell.options = options;
  return cell;
}

TEST(Repeat, NamesAllThatACellIs) {
  EXPECT_EQ(repeat_command(cell_of("prefill", "cublaslt", "dense", R"({"runs":5})"), "cuda"),
            "slidesparse bench prefill --model smollm2-135m --dtype int8 --patterns dense --m 8 --backend "
            "cublaslt --runs 5");
  ReportCell decode =
      cell_of("decode", "auto", "6:8",
              R"({"kv_cache_dtype":"fp8","prompt":16,"runs":3,"steps":256,"weights":"smallest"})");
  decode.layout = "split";
  decode.memory_limit = 24051816857;
  EXPECT_EQ(repeat_command(decode, "cuda"),
            "slidesparse bench decode --model smollm2-135m --dtype int8 --patterns 6:8 --layout split --m 8 "
            "--weights smallest "
            "--memory-limit 24051816857 --runs 3 --kv-cache-dtype fp8 --steps 256 --prompt 16");
  // A retry took something else.
  decode.changes.kv_cache_dtype = "bf16";
  decode.changes.weights = "balanced";
  EXPECT_THAT(repeat_command(decode, "cuda"),
              ::testing::AllOf(::testing::HasSubstr(" --weights balanced "),
                               ::testing::HasSubstr(" --kv-cache-dtype bf16 ")));
  ReportCell own = cell_of("prefill", "auto", "6:8", "{}");
  own.model = "/models/my llama";
  EXPECT_EQ(repeat_command(own, "cpu"), "slidesparse bench prefill '/models/my llama' --m 8 --device cpu");
  ReportCell tune = cell_of("tune", "auto", "6:8", R"({"m":[16,64]})");
  tune.m.reset();
  EXPECT_EQ(repeat_command(tune, "cuda"),
            "slidesparse tune --model smollm2-135m --dtype int8 --patterns 6:8 --m 16,64");
  EXPECT_EQ(
      repeat_command(cell_of("decode", "auto", "6:8", R"({"head":"fp8","runs":1})"), "cpu"),
      "slidesparse bench decode --model smollm2-135m --dtype int8 --patterns 6:8 --m 8 --device cpu --runs 1 "
      "--head fp8");
  EXPECT_EQ(repeat_command(cell_of("convert", "auto", "6:8", "{}"), ""),
            "slidesparse random-model smollm2-135m smollm2-135m-random && "
            "slidesparse convert smollm2-135m-random converted --pattern 6:8 --dtype int8");
}

// The program itself takes them.
TEST(Repeat, CommandsRun) {
  const testing::TempDir directory;
  for (const std::string& text :
       {repeat_command(
            cell_of("prefill", "cpu", "6:8",
                    R"({"head":"bf16","kv_cache_dtype":"bf16","runs":1,"seed":1,"weights":"fastest"})"),
            "cpu"),
        repeat_command(cell_of("decode", "auto", "6:8", R"({"prompt":4,"runs":1,"steps":2})"), "cpu"),
        repeat_command(cell_of("gemm", "cpu", "dense", R"({"seed":2,"weights":"smallest"})"), "cpu")}) {
    ASSERT_TRUE(text.starts_with("slidesparse bench"));
    const std::string log = (directory / "log").string();
    const std::string command =
        SLIDESPARSE_PROGRAM + text.substr(text.find(' ')) + " >" + log + " 2>&1 </dev/null";
    EXPECT_EQ(std::system(command.c_str()), 0) << text << "\n" << testing::read_text(log);
  }
}

// `slidesparse report` as people call it.
TEST(Program, WritesAReport) {
  const testing::TempDir directory;
  testing::TestDatabase database(directory / "results.db");
  testing::fill_matrix(database, 1, 1);
  database.commit();
  const auto run = [&](const std::string& arguments) {
    const std::string command = fmt::format("cd {} && {} report {} >log 2>&1 </dev/null",
                                            directory.path().string(), SLIDESPARSE_PROGRAM, arguments);
    const int status = std::system(command.c_str());
    return std::make_pair(WEXITSTATUS(status), testing::read_text(directory / "log"));
  };
  const auto [code, text] = run("results.db --language zh");
  EXPECT_EQ(code, 0);
  EXPECT_THAT(text, ::testing::HasSubstr("report/report.html: "));
  EXPECT_EQ(testing::read_text(directory / "report" / "report.html"),
            make_report(directory / "results.db", {}, Words::of_language("zh")).html);
  EXPECT_EQ(run("missing.db"),
            std::make_pair(1, std::string("error: missing.db: unable to open database file\n")));
  EXPECT_EQ(run("results.db --language fr"),
            std::make_pair(2, std::string("error: --language fr: possible are en, zh\n")));
}

}  // namespace
}  // namespace slidesparse
