// Any bytes as a tokenizer.json: refused with Error, or a tokenizer that can be used.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "io/tokenizer/tokenizer.h"
#include "slidesparse/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using slidesparse::Tokenizer;
  try {
    const Tokenizer tokenizer =
        Tokenizer::from_json(std::string_view(reinterpret_cast<const char*>(data), size), "fuzz");
    const std::vector<std::int32_t> ids = tokenizer.encode("The ab abc <s> 12\u0301 \u4e16\n\n  x'll", true);
    for (const std::int32_t id : ids) {
      if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
    }
    slidesparse::StreamDecoder stream(tokenizer, true);
    for (const std::int32_t id : ids) stream.push(id);
    stream.finish();
    tokenizer.decode(ids);
  } catch (const slidesparse::Error& error) {
    if (std::string_view(error.what()).find('\n') != std::string_view::npos) std::abort();
    if (error.kind() == slidesparse::ErrorKind::kInternal) std::abort();
  }
  return 0;
}
