#include "io/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "io_tokenizer/small_tokenizer.h"
#include "slidesparse/core/error.h"

namespace slidesparse {
namespace {

using Ids = std::vector<std::int32_t>;
constexpr const char* kReplacement = "\xef\xbf\xbd";

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Tokenizer, KnowsItsTokens) {
  const Tokenizer tokenizer = load(small_tokenizer());
  EXPECT_EQ(tokenizer.vocab_size(), 261);
  EXPECT_EQ(tokenizer.token_to_id("abc"), 257);
  EXPECT_EQ(tokenizer.token_to_id("\u0120a"), 258);
  EXPECT_EQ(tokenizer.token_to_id("<s>"), 259);
  EXPECT_EQ(tokenizer.token_to_id("<u>"), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(259));
  EXPECT_FALSE(tokenizer.is_special(260));
  for (const std::int32_t id : {-1, 261, INT32_MAX, INT32_MIN}) {
    EXPECT_FALSE(tokenizer.is_special(id));
    EXPECT_EQ(tokenizer.token_bytes(id), "");
  }
  EXPECT_EQ(tokenizer.token_bytes(258), " a");
  EXPECT_EQ(tokenizer.token_bytes(0xe4), "\xe4");
  EXPECT_EQ(tokenizer.token_bytes(259), "<s>");
}

TEST(Tokenizer, VocabSizeIsLargestIdPlusOneWithGaps) {
  auto json = small_tokenizer();
  json["added_tokens"][1]["id"] = 5000;
  const Tokenizer tokenizer = load(json);
  EXPECT_EQ(tokenizer.vocab_size(), 5001);
  EXPECT_EQ(tokenizer.encode("<t>"), Ids{5000});
  EXPECT_EQ(tokenizer.decode(Ids{'a', 4999, 5000}), "a<t>");
}

TEST(Tokenizer, SpecialTokensCanBeText) {
  const Tokenizer tokenizer = load(small_tokenizer());
  EXPECT_EQ(tokenizer.encode("abc<s> a<t>"), (Ids{257, 259, 258, 260}));
  EXPECT_EQ(tokenizer.encode("abc<s><t>", false, false), (Ids{257, '<', 's', '>', 260}));
  EXPECT_EQ(tokenizer.decode(Ids{257, 259, 258, 260}), "abc<s> a<t>");
  EXPECT_EQ(tokenizer.decode(Ids{257, 259, 258, 260}, true), "abc a<t>");
}

TEST(Tokenizer, IdsWithoutTokenDecodeToNothing) {
  const Tokenizer tokenizer = load(small_tokenizer());
  EXPECT_EQ(tokenizer.decode(Ids{-1, 'x', 261, INT32_MAX, 'y', INT32_MIN}), "xy");
  StreamDecoder stream(tokenizer, false);
  EXPECT_EQ(stream.push(-1) + stream.push('x') + stream.push(INT32_MAX), "x");
}

TEST(Tokenizer, RefusesInvalidUtf8WithItsOffset) {
  const Tokenizer tokenizer = load(small_tokenizer());
  EXPECT_EQ(error_of([&] { tokenizer.encode("ab\xff"); }), "text is not valid UTF-8: byte 2 (0xff) of 3");
  EXPECT_EQ(error_of([&] { tokenizer.encode("\u4e16\xe4\xb8"); }),
            "text is not valid UTF-8: byte 3 (0xe4) of 5");
  EXPECT_EQ(error_of([&] { tokenizer.encode("\xed\xa0\x80"); }),
            "text is not valid UTF-8: byte 0 (0xed) of 3");
  EXPECT_EQ(error_of([&] { tokenizer.encode("\xc0\x80"); }), "text is not valid UTF-8: byte 0 (0xc0) of 2");
}

TEST(Tokenizer, EveryCharacterSurvivesTheRoundTrip) {
  const Tokenizer tokenizer = load(small_tokenizer());
  for (char32_t c = 0; c < 0x110000; c += c < 0x3000 ? 1 : 7) {
    if (c >= 0xd800 && c < 0xe000) continue;
    const std::string text = "ab" + tok::utf8_of(c) + " a";
    ASSERT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << static_cast<std::uint32_t>(c);
  }
}

TEST(StreamDecoder, EmitsCompleteSequencesOnly) {
  StreamDecoder stream(load(small_tokenizer()), true);
  EXPECT_EQ(stream.push(0xe4), "");
  EXPECT_EQ(stream.push(0xb8), "");
  EXPECT_EQ(stream.push(259), "");  // a special token that is skipped does not disturb
  EXPECT_EQ(stream.push(0x96), "\u4e16");
  EXPECT_EQ(stream.push(0xf0), "");
  EXPECT_EQ(stream.push(0x9f), "");
  EXPECT_EQ(stream.push('x'), std::string(kReplacement) + "x");
  EXPECT_EQ(stream.push(0xff), kReplacement);
  EXPECT_EQ(stream.push(0xc3), "");
  EXPECT_EQ(stream.finish(), kReplacement);
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.push('y'), "y");
}

TEST(StreamDecoder, EqualsDecodeForAnyBytes) {
  const Tokenizer tokenizer = load(small_tokenizer());
  std::uint32_t state = 12345;
  const auto random = [&](std::uint32_t n) { return (state = state * 1664525u + 1013904223u) % 65521u % n; };
  constexpr std::array<std::int32_t, 12> kLikely{0xe4, 0xb8, 0x96, 0xf0, 0x9f, 0x98,
                                                 0x80, 0xc3, 0xed, 0xf4, 257,  259};
  for (int round = 0; round < 5000; ++round) {
    Ids ids;
    for (std::uint32_t n = random(20); n > 0; --n) {
      ids.push_back(random(3) == 0 ? static_cast<std::int32_t>(random(261))
                                   : kLikely[random(kLikely.size())]);
    }
    StreamDecoder stream(tokenizer, false);
    std::string text;
    for (const std::int32_t id : ids) {
      const std::string piece = stream.push(id);
      ASSERT_EQ(tok::find_invalid_utf8(piece), std::nullopt);
      text += piece;
    }
    ASSERT_EQ(text + stream.finish(), tokenizer.decode(ids)) << testing::PrintToString(ids);
  }
}

TEST(Tokenizer, OneObjectServesManyThreads) {
  const Tokenizer tokenizer = load(small_tokenizer());
  std::string text;
  for (int i = 0; i < 2000; ++i) text += " abc ab\u4e16" + std::to_string(i * 7919);
  const Ids expected = tokenizer.encode(text);
  std::vector<Ids> results(4);
  std::vector<std::thread> threads;
  threads.reserve(results.size());
  for (Ids& result : results) threads.emplace_back([&] { result = tokenizer.encode(text); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(results, testing::Each(expected));
}

TEST(Tokenizer, LongRunsWithoutSpacesAreFast) {
  // Quadratic merging would take hours here; the time limit of the test is the check.
  const Tokenizer tokenizer = load(small_tokenizer());
  std::string text;
  while (text.size() < (1u << 20)) text += "abcab";
  const Ids ids = tokenizer.encode(text);
  EXPECT_EQ(ids.size(), 2 * (text.size() / 5));
  EXPECT_EQ(tokenizer.decode(ids), text);
  for (const char* unit : {" ", "\n", "!", "\u4e16", "0", " \n", "'"}) {
    std::string run;
    while (run.size() < (1u << 20)) run += unit;
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(run)), run);
  }
}

}  // namespace
}  // namespace slidesparse
