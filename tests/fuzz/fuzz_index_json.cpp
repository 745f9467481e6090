// model.safetensors.index.json: whatever is accepted must name plain files only.
#include "fuzz.h"
#include "io/model_directory.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace slidesparse;
  fuzz::accepts([&] {
    const auto index = parse_weight_index({reinterpret_cast<const char*>(data), size}, "fuzz");
    fuzz::hold(!index.empty());
    for (const auto& [tensor, shard] : index) {
      fuzz::hold(shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos &&
                 shard.front() != '.');
      fuzz::hold(shard.ends_with(".safetensors"));
    }
  });
  return 0;
}
