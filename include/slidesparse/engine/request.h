#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace slidesparse {

// How the next token is drawn from logits. Used as FP32.
struct SamplingOptions {
  double temperature = 0.0;         // 0 (greedy) to 1e6
  std::int64_t top_k = 0;           // only the k largest; 0: all
  double top_p = 1.0;               // only the smallest set whose probabilities reach p; above 0, at most 1
  double min_p = 0.0;               // only tokens with this share of the likeliest one's probability, 0 to 1
  double repetition_penalty = 1.0;  // of tokens in the prompt or the output, 0.01 to 100; 1: none
  std::uint64_t seed = 0;           // equal seeds draw equal tokens from equal logits
};

// The most alternatives a request may ask for beside each token.
inline constexpr int kMostLogprobs = 20;

// A prompt and how to go on from it.
struct GenerationRequest {
  // The prompt: token ids [at least 1], each in [0, vocabulary), or text (UTF-8), which needs a tokenizer.
  // One of both.
  std::vector<std::int32_t> tokens = {};
  std::string text = {};
  bool add_special_tokens = false;  // to the text: what the tokenizer puts around it by itself

  SamplingOptions sampling = {};
  std::int64_t max_tokens = 128;  // new tokens at most, 0 or more
  std::int64_t min_tokens = 0;    // stop tokens among the first so many are tokens like any other
  std::vector<std::int64_t> stop_tokens = {};  // besides the model's own end tokens
  bool ignore_eos = false;                     // the model's end tokens are tokens like any other
  // -1: no log probabilities; 0: that of each new token; n up to kMostLogprobs: and the n likeliest ones.
  int logprobs = -1;
};

// Why no more tokens are made for a prompt.
enum class StopReason {
  kStopToken,
  kMaxTokens,
  kMaxModelLen,  // prompt and new tokens are as many as a sequence may have
  kCaller,
  kInterrupted
};
std::string_view stop_reason_name(StopReason reason);  // "stop token", "max tokens", ...

// The natural logarithm of a token's probability: log-softmax of the model's logits, before penalty,
// temperature and cuts, so the same whatever the sampling options are.
struct TokenLogprob {
  std::int32_t id = -1;
  float logprob = 0;
  bool operator==(const TokenLogprob&) const = default;
};

enum class EventKind {
  kToken,     // a new token
  kFinished,  // the last event of a request that came to its end
  kFailed,    // the last event of a request that could not go on
};

// One thing that happened to a request. Those of one request come in order; those of several are mixed.
struct Event {
  std::int64_t request = 0;  // what Engine::submit gave
  EventKind kind = EventKind::kToken;
  // Text (UTF-8) that became complete with this token, perhaps none; with kFinished what was left over.
  // Special tokens give none. Empty without a tokenizer.
  std::string text = {};

  // kToken:
  std::int32_t token = -1;
  std::int64_t index = 0;              // 0: the first new token
  float logprob = 0;                   // of the token, when the request asked for it
  std::vector<TokenLogprob> top = {};  // the likeliest ones, descending, ties by id

  // kFinished:
  StopReason reason = StopReason::kMaxTokens;
  std::int64_t prompt_tokens = 0;
  std::int64_t output_tokens = 0;  // new tokens, the stop token not counted
  std::int64_t preemptions = 0;    // times it was set back for want of pages; costs time, changes no token

  // kFailed: one line.
  std::string error = {};
};

}  // namespace slidesparse
