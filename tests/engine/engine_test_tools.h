#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/random.h"
#include "engine/alone.h"
#include "engine/make_engine.h"
#include "io/json.h"
#include "io_tokenizer/small_tokenizer.h"
#include "model/model_test_tools.h"
#include "slidesparse/core/error.h"

namespace slidesparse::test {

// The ids of small_tokenizer().
inline constexpr std::int64_t kVocab = 261;
// The model's own end token.
inline constexpr std::int64_t kEnd = 2;

inline std::shared_ptr<const Model> tiny_model(DType dtype) {
  ModelConfig config = parse_model_config(read_text_file(golden("llama") / "config.json"), "config.json");
  config.vocab = kVocab;
  const DType head = dtype == DType::kI8 ? DType::kI8 : DType::kBF16;
  return std::make_shared<const Model>(Model::random(config, dtype, Pattern::parse("6:8"), head, 1));
}

// INT8 throughout, so that sums do not depend on how many tokens are multiplied at once.
inline const std::shared_ptr<const Model>& int8_model() {
  static const std::shared_ptr<const Model> kModel = tiny_model(DType::kI8);
  return kModel;
}

inline EngineOptions small_options() {
  EngineOptions options;
  options.max_num_seqs = 4;
  options.max_num_batched_tokens = 32;
  options.max_model_len = 64;
  options.page_size = 4;
  options.kv_pages = 64;
  return options;
}

inline Engine small_engine(const EngineOptions& options = small_options()) {
  return make_engine({int8_model(), load(small_tokenizer()), {kEnd}}, options);
}

inline GenerationRequest some_request(std::uint64_t seed) {
  GenerationRequest made;
  const auto length = static_cast<std::int64_t>(1 + random_bits(seed, 0) % 30);
  for (std::int64_t i = 0; i < length; ++i) {
    made.tokens.push_back(
        static_cast<std::int32_t>(random_bits(seed, static_cast<std::uint64_t>(100 + i)) % kVocab));
  }
  made.max_tokens = static_cast<std::int64_t>(1 + random_bits(seed, 1) % 20);
  if (seed % 2 == 0) made.stop_tokens = {3, 7, 11, 60};
  made.ignore_eos = seed % 3 == 1;
  made.sampling.seed = seed + 5;
  if (seed % 3 != 0) made.sampling.temperature = 0.5 + 0.25 * static_cast<double>(seed % 4);
  if (seed % 4 == 1) made.sampling.top_k = 12;
  if (seed % 4 == 2) made.sampling.top_p = 0.9;
  if (seed % 5 == 2) made.sampling.repetition_penalty = 1.4;
  if (seed % 6 < 4) made.logprobs = static_cast<int>(seed % 6);
  return made;
}

inline AloneResult alone(const GenerationRequest& request, const Model& model = *int8_model(),
                         std::int64_t chunk = 32) {
  AloneOptions options;
  options.max_tokens = request.max_tokens;
  options.sampling = request.sampling;
  options.stop_tokens = request.stop_tokens;
  if (!request.ignore_eos) options.stop_tokens.push_back(kEnd);
  options.prefill_chunk = chunk;
  return generate_alone(model, request.tokens, options);
}

// What the events of one request say.
struct Told {
  std::vector<std::int32_t> tokens;
  std::vector<Event> events;  // of tokens
  std::string text;
  std::optional<Event> last;  // kFinished or kFailed
};

inline void take(std::map<std::int64_t, Told>& told, const Event& event) {
  Told& entry = told[event.request];
  EXPECT_FALSE(entry.last) << "request " << event.request << " goes on after its end";
  entry.text += event.text;
  if (event.kind == EventKind::kToken) {
    EXPECT_EQ(event.index, static_cast<std::int64_t>(entry.tokens.size()));
    entry.tokens.push_back(event.token);
    entry.events.push_back(event);
  } else {
    entry.last = event;
  }
}

inline std::map<std::int64_t, Told> drain(Engine& engine) {
  std::map<std::int64_t, Told> told;
  while (const std::optional<Event> event = engine.next()) take(told, *event);
  return told;
}

}  // namespace slidesparse::test
