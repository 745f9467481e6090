#include "engine/evaluate.h"
#include "engine/weight_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "model/model_test_tools.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

const Model& llama() {
  static const Model model = Model::load(test::golden("llama"));
  return model;
}

std::vector<std::int32_t> text(std::int64_t count) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<std::int32_t>((i * i * 7 + i / 3) % 128));
  return tokens;
}

// Mean negative log likelihood of tokens[begin + 1 .. begin + window) by the definition.
double window_nll(const std::vector<std::int32_t>& tokens, std::size_t begin, std::size_t window) {
  const test::Rows rows =
      test::run_whole(llama(), {tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                                tokens.begin() + static_cast<std::ptrdiff_t>(begin + window)});
  double sum = 0;
  for (std::size_t i = 0; i + 1 < window; ++i) {
    double total = 0;
    for (const float logit : rows[i]) total += std::exp(static_cast<double>(logit));
    sum += std::log(total) - rows[i][static_cast<std::size_t>(tokens[begin + i + 1])];
  }
  return sum / static_cast<double>(window - 1);
}

TEST(Perplexity, IsTheMeanOverWindows) {
  const std::vector<std::int32_t> tokens = text(150);
  PerplexityOptions options;
  options.window = 40;  // several windows a step, and 30 tokens left out
  const PerplexityResult result = evaluate_perplexity(llama(), tokens, options);
  ASSERT_EQ(result.windows, 3);
  EXPECT_EQ(result.predictions, 3 * 39);
  double mean = 0;
  for (std::size_t w = 0; w < 3; ++w) {
    const double nll = window_nll(tokens, 40 * w, 40);
    EXPECT_NEAR(result.window_nll[w], nll, 1e-4);
    mean += nll / 3;
  }
  EXPECT_NEAR(result.mean_nll, mean, 1e-4);
  EXPECT_NEAR(result.perplexity, std::exp(mean), 1e-3 * std::exp(mean));
  double squares = 0;
  for (const double nll : result.window_nll) squares += std::pow(nll - result.mean_nll, 2);
  EXPECT_NEAR(result.mean_nll_error, std::sqrt(squares / 2 / 3), 1e-12);
  EXPECT_NEAR(result.perplexity_error, result.perplexity * result.mean_nll_error, 1e-9);
}

TEST(Perplexity, LimitsAndShortTexts) {
  PerplexityOptions options;
  options.window = 40;
  options.max_windows = 2;
  std::vector<std::int64_t> seen;
  EXPECT_EQ(evaluate_perplexity(llama(), text(150), options,
                                [&](std::int64_t done, std::int64_t total) {
                                  seen.push_back(done);
                                  EXPECT_EQ(total, 2);
                                })
                .windows,
            2);
  EXPECT_EQ(seen.back(), 2);
  options = {};
  options.window = 256;
  const PerplexityResult one = evaluate_perplexity(llama(), text(20), options);
  EXPECT_EQ(one.windows, 1);
  EXPECT_EQ(one.window, 20);
  EXPECT_EQ(one.predictions, 19);
  EXPECT_EQ(one.mean_nll_error, 0);
}

// What is planned for is what is run: windows together up to 2048 tokens, or one in chunks of them.
TEST(Perplexity, SizesOfItsSteps) {
  ModelConfig config = llama().config();
  config.max_position = 8192;
  PerplexityOptions options;
  options.window = 40;
  EvalSizes sizes = perplexity_sizes(config, 150, options);
  EXPECT_EQ(sizes.sequences, 51);
  EXPECT_EQ(sizes.step_tokens, 2040);
  EXPECT_EQ(sizes.longest, 40);
  EXPECT_EQ(sizes.pages * sizes.page_size, 51 * 64);
  EXPECT_EQ(sizes.logit_rows, 1024);
  options.window = 5000;
  config.vocab = 152064;
  sizes = perplexity_sizes(config, 100000, options);
  EXPECT_EQ(sizes.sequences, 1);
  EXPECT_EQ(sizes.step_tokens, 2048);
  EXPECT_EQ(sizes.longest, 5000);
  EXPECT_EQ(sizes.pages * sizes.page_size, 5056);
  EXPECT_EQ(sizes.logit_rows, 48);
  EXPECT_EQ(perplexity_sizes(config, 30, options).longest, 30);  // the whole text
  EXPECT_THROW(perplexity_sizes(config, 1, options), Error);
  options.window = 9000;
  EXPECT_THROW(perplexity_sizes(config, 100000, options), Error);

  const MemoryDemand demand = eval_demand({}, sizes);
  EXPECT_EQ(demand.sequences * demand.length, 5056);
  EXPECT_EQ(demand.step_tokens, 2048);
  EXPECT_EQ(demand.logit_rows, 48);
  EXPECT_EQ(demand.kv_kept, KvKept::kAll);
}

TEST(Perplexity, RefusesNonsense) {
  PerplexityOptions options;
  options.window = 1;
  EXPECT_THROW(evaluate_perplexity(llama(), text(10), options), Error);
  options.window = 257;
  EXPECT_THROW(evaluate_perplexity(llama(), text(10), options), Error);
  options = {.window = 16, .max_windows = -1};
  EXPECT_THROW(evaluate_perplexity(llama(), text(10), options), Error);
  options = {.window = 16};
  EXPECT_THROW(evaluate_perplexity(llama(), text(1), options), Error);
  EXPECT_THROW(evaluate_perplexity(llama(), std::vector<std::int32_t>{1, 128}, options), Error);
}

class HellaSwagFile : public testing::Test {
 protected:
  std::filesystem::path write(const std::string& content) {
    std::filesystem::path path = scratch_.path() / "tasks";
    std::ofstream(path) << content;
    return path;
  }
  std::string refusal(const std::string& content) {
    try {
      read_hellaswag(write(content));
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
      return error.what();
    }
    return "";
  }
  test::ScratchDirectory scratch_{"slidesparse_hellaswag_test"};
};

TEST_F(HellaSwagFile, SixLines) {
  const auto tasks =
      read_hellaswag(write("A man sits. he\n3\nruns.\nswims.\nflies.\nstands up.\r\nB\n0\na\nb\nc\nd\n"));
  ASSERT_EQ(tasks.size(), 2u);
  EXPECT_EQ(tasks[0].context, "A man sits. he");
  EXPECT_EQ(tasks[0].label, 3);
  EXPECT_EQ(tasks[0].endings[3], "stands up.");
  EXPECT_EQ(tasks[1].endings[0], "a");
  EXPECT_EQ(read_hellaswag(write("A\n0\na\nb\nc\nd\nB\n0\na\nb\nc\nd\n"), 1).size(), 1u);
}

TEST_F(HellaSwagFile, JsonIsCleanedAsTheHarnessDoes) {
  const auto tasks = read_hellaswag(write(
      R"({"ind": 4, "activity_label": "Removing ice", "ctx_a": "[header] How to [title] Start [step] Then  scrape.", "ctx_b": "the Man", "ctx": "unused", "endings": ["a [x]  b", "c", " d ", "e"], "label": "2"})"
      "\n"
      R"({"ctx": "Only ctx", "endings": ["a", "b", "c", "d"], "label": 1})"
      "\n"));
  ASSERT_EQ(tasks.size(), 2u);
  EXPECT_EQ(tasks[0].context, "Removing ice: How to. Start Then scrape. The man");
  EXPECT_EQ(tasks[0].endings[0], "a  b");  // three spaces, one pass
  EXPECT_EQ(tasks[0].endings[2], "d");
  EXPECT_EQ(tasks[0].label, 2);
  EXPECT_EQ(tasks[1].context, "Only ctx");
}

TEST_F(HellaSwagFile, RefusesDamage) {
  EXPECT_THAT(refusal(""), testing::HasSubstr("0 lines"));
  EXPECT_THAT(refusal("A\n0\na\nb\nc\n"), testing::HasSubstr("5 lines"));
  EXPECT_THAT(refusal("A\n4\na\nb\nc\nd\n"), testing::HasSubstr("label"));
  EXPECT_THAT(refusal("A\n0\na\n\nc\nd\n"), testing::HasSubstr("empty"));
  EXPECT_THAT(refusal("{\"ctx\": \"a\"}\n"), testing::HasSubstr("line 1"));
  EXPECT_THAT(refusal("{\"ctx\": \"a\", \"endings\": [\"a\"], \"label\": 0}\n"),
              testing::HasSubstr("endings"));
  EXPECT_THAT(refusal("{\"ctx\": \"a\", \"endings\": [\"a\",\"b\",\"c\",\"d\"], \"label\": \"\"}\n"),
              testing::HasSubstr("label"));
  EXPECT_THAT(refusal("{\"ctx\": \"a\"\n"), testing::HasSubstr("line 1"));
}

// A byte-level tokenizer without merges whose ids are below 128: ASCII only.
Tokenizer ascii_tokenizer() {
  std::string vocab;
  for (int c = 33; c < 127; ++c) {
    const std::string quoted = c == '"' || c == '\\' ? std::string("\\") + static_cast<char>(c)
                                                     : std::string(1, static_cast<char>(c));
    vocab += (vocab.empty() ? "\"" : ",\"") + quoted + "\":" + std::to_string(c);
  }
  vocab += ",\"\u0120\":32";
  return Tokenizer::from_json(
      R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
    "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},"post_processor":null,
    "decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
    "model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,
    "fuse_unk":false,"byte_fallback":false,"vocab":{)" +
          vocab + R"(},"merges":[]}})",
      "ascii");
}

// One task of 3 and 2, 3, 4, 1 tokens, then one of 20 and 2 each; on a card endings feed what their context
// has beyond whole pages once more.
TEST(HellaSwag, SizesOfItsSteps) {
  const Tokenizer tokenizer = ascii_tokenizer();
  const std::vector<HellaSwagTask> tasks{{"abc", {"x", "xx", "xxx", ""}, 0},
                                         {"abcdefghijklmnopqrst", {"x", "y", "z", "w"}, 0}};
  EvalSizes sizes = hellaswag_sizes(llama().config(), tokenizer, tasks, DeviceKind::kCuda);
  EXPECT_EQ(sizes.page_size, 16);
  EXPECT_EQ(sizes.pages, 256);  // never fewer than 4096 tokens take
  EXPECT_EQ(sizes.step_tokens, 4 + 5 + 6 + 4 * (4 + 1));
  EXPECT_EQ(sizes.sequences, 7);  // " " alone is predicted by the context
  EXPECT_EQ(sizes.longest, 22);
  EXPECT_EQ(sizes.logit_rows, 1 + 2 + 3 + 4);
  sizes = hellaswag_sizes(llama().config(), tokenizer, tasks, DeviceKind::kCpu);
  EXPECT_EQ(sizes.page_size, 1);
  EXPECT_EQ(sizes.step_tokens, 23);  // all contexts
  // More tokens than go together: groups, the largest of which counts.
  const std::vector<HellaSwagTask> many(300, tasks[1]);
  sizes = hellaswag_sizes(llama().config(), tokenizer, many, DeviceKind::kCpu);
  EXPECT_EQ(sizes.step_tokens, 4096 / 28 * 20);
  EXPECT_EQ(sizes.sequences, 4096 / 28 * 4);
}

// Scores of the four endings by feeding each whole text alone.
TEST(HellaSwag, SharedContextsScoreLikeWholeTexts) {
  const Tokenizer tokenizer = ascii_tokenizer();
  std::vector<HellaSwagTask> tasks;
  for (int i = 0; i < 12; ++i) {
    HellaSwagTask task;
    task.context = "Task " + std::to_string(i * 37) + std::string(static_cast<std::size_t>(i), 'x');
    for (std::size_t e = 0; e < 4; ++e)
      // Every other task has endings of equal length, where acc and acc_norm agree.
      task.endings[e] =
          std::string(1 + (e * 5 * static_cast<std::size_t>(i % 2) + static_cast<std::size_t>(i)) % 7,
                      static_cast<char>('a' + e + static_cast<std::size_t>(i)));
    tasks.push_back(task);
  }
  int expected = 0, expected_norm = 0;
  for (HellaSwagTask& task : tasks) {
    std::array<double, 4> scores{}, normed{};
    const std::size_t context = tokenizer.encode(task.context).size();
    for (std::size_t e = 0; e < 4; ++e) {
      const std::vector<std::int32_t> tokens = tokenizer.encode(task.context + " " + task.endings[e]);
      const test::Rows rows = test::run_whole(llama(), tokens);
      for (std::size_t i = context; i < tokens.size(); ++i) {
        double total = 0;
        for (const float logit : rows[i - 1]) total += std::exp(static_cast<double>(logit));
        scores[e] += rows[i - 1][static_cast<std::size_t>(tokens[i])] - std::log(total);
      }
      normed[e] = scores[e] / static_cast<double>(task.endings[e].size());
    }
    const auto best = std::ranges::max_element(scores) - scores.begin();
    const auto best_norm = std::ranges::max_element(normed) - normed.begin();
    task.label = static_cast<int>(best);  // acc is 1 when every score is right
    ++expected;
    expected_norm += best_norm == best;
  }
  const HellaSwagResult result = evaluate_hellaswag(llama(), tokenizer, tasks);
  EXPECT_EQ(result.tasks, 12);
  EXPECT_DOUBLE_EQ(result.accuracy * 12, expected);
  EXPECT_DOUBLE_EQ(result.accuracy_norm * 12, expected_norm);
  EXPECT_EQ(result.accuracy_error, 0);
  EXPECT_LT(expected_norm, 12);
  EXPECT_GT(result.accuracy_norm_error, 0);
  ASSERT_EQ(result.choices.size(), tasks.size());
  int differ = 0;
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    const HellaSwagChoice& choice = result.choices[t];
    EXPECT_EQ(choice.label, tasks[t].label);
    EXPECT_EQ(choice.chosen, tasks[t].label);
    EXPECT_EQ(std::ranges::max(choice.log_likelihoods),
              choice.log_likelihoods[static_cast<std::size_t>(choice.chosen)]);
    differ += choice.chosen_norm != choice.chosen;
  }
  EXPECT_EQ(differ, 12 - expected_norm);
  for (HellaSwagTask& task : tasks) task.label = (task.label + 1) % 4;
  EXPECT_EQ(evaluate_hellaswag(llama(), tokenizer, tasks).accuracy, 0);
  EXPECT_THROW(evaluate_hellaswag(llama(), tokenizer, {}), Error);
}

}  // namespace
}  // namespace slidesparse
