#pragma once

#include <algorithm>
#include <cstdint>

#include "core/random.h"
#include "engine/scheduler.h"

namespace slidesparse::test {

// Every token, of prompt and output, is a hash of (request, position), so what a request must bring is known
// before it runs.
inline constexpr std::int64_t kVocab = 32;

inline std::uint64_t mark(std::int64_t uid, std::int64_t position) {
  return random_bits(static_cast<std::uint64_t>(uid), static_cast<std::uint64_t>(position));
}
inline std::int32_t token_at(std::int64_t uid, std::int64_t position) {
  return static_cast<std::int32_t>(mark(uid, position) % kVocab);
}

// A request and all that may be known of it from outside. uids count arrivals; ids are used again.
struct Client {
  std::int64_t uid = 0;
  Request request;
  std::int64_t prompt = 0;
  std::int64_t output = 0;  // tokens that it must bring
  StopReason reason = StopReason::kMaxTokens;
  std::int64_t shown = 0;             // new tokens so far
  std::int64_t drawn = 0;             // new tokens so far, those in flight included
  std::int64_t next = 0;              // position
  std::int64_t last_step = kNone;     // that had it
  std::int64_t started_step = kNone;  // the last start
};

// Fills in what the request of `client` must bring: the simple model of a run.
inline void expect_output(Client& client, std::int64_t max_context) {
  const Request& request = client.request;
  while (true) {
    const std::int32_t token = token_at(client.uid, client.prompt + client.output);
    if (!request.ignore_eos && client.output >= request.min_new_tokens &&
        std::ranges::find(request.stop_tokens, token) != request.stop_tokens.end()) {
      client.reason = StopReason::kStopToken;
      return;
    }
    ++client.output;
    if (client.output == request.max_new_tokens) return;
    if (client.prompt + client.output == max_context) {
      client.reason = StopReason::kMaxModelLen;
      return;
    }
  }
}

// A request that may be too long by a token or two: then it brings nothing.
inline Client random_client(Random& random, std::int64_t uid, std::int64_t id, std::int64_t max_context) {
  Client client{.uid = uid, .request = {}};
  Request& request = client.request;
  request.id = id;
  client.prompt = 1 + random.below(random.below(4) == 0 ? max_context + 1 : (max_context + 2) / 4);
  for (std::int64_t i = 0; i < client.prompt; ++i) request.prompt.push_back(token_at(uid, i));
  request.max_new_tokens = 1 + (random.below(4) == 0 ? 0 : random.below(40));
  request.min_new_tokens = random.below(3) == 0 ? random.below(request.max_new_tokens + 1) : 0;
  for (std::int64_t i = random.below(4); i > 0; --i) request.stop_tokens.push_back(random.below(kVocab));
  request.ignore_eos = random.below(4) == 0;
  if (client.prompt < max_context) expect_output(client, max_context);
  return client;
}

}  // namespace slidesparse::test
