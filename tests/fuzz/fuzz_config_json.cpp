// config.json: the model's keys, the `slidesparse` section and `quantization_config`.
#include "fuzz.h"
#include "io/compressed_tensors.h"
#include "io/packed_directory.h"
#include "model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace slidesparse;
  const std::string text(reinterpret_cast<const char*>(data), size);
  fuzz::accepts([&] {
    const auto info = parse_packed_info(text, "fuzz");
    if (!info) return;
    // What was accepted can be written, and reads as the same.
    const std::string written = config_with_packed_info(text, *info);
    const auto again = parse_packed_info(written, "again");
    fuzz::hold(again.has_value() && config_with_packed_info(written, *again) == written);
    fuzz::hold(again->pattern == info->pattern && again->exceptions.size() == info->exceptions.size());
  });
  fuzz::accepts([&] {
    const auto config = parse_compressed_tensors(text, "fuzz");
    if (!config) return;
    config->quantises("model.layers.10.self_attn.q_proj");
    config->quantises("lm_head");
    const std::string written = config_with_compressed_tensors(text, config->dtype(), {"lm_head"});
    const auto again = parse_compressed_tensors(written, "again");
    fuzz::hold(again.has_value() && again->dtype() == config->dtype() && !again->quantises("lm_head"));
  });
  fuzz::accepts([&] {
    const ModelConfig config = parse_model_config(text, "fuzz");
    fuzz::hold(config.hidden > 0 && config.layers > 0 && config.heads > 0 && config.kv_heads > 0 &&
               config.vocab > 0);
    fuzz::hold(config.head_dim > 0 && config.heads % config.kv_heads == 0);
  });
  return 0;
}
