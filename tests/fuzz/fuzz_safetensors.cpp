// The header of a safetensors file. The first byte chooses: bit 0 set, the rest is a whole file; clear, the
// rest is a JSON text that gets the right length in front and 16 * (byte >> 1) bytes of data behind, so that
// the fuzzer need not guess the length.
#include <cstring>
#include <span>

#include "fuzz.h"
#include "io/safetensors.h"

namespace {

using namespace slidesparse;

void check(const SafetensorsHeader& header, std::int64_t file_size) {
  std::int64_t position = 0;
  for (const TensorEntry& entry : header.tensors) {
    fuzz::hold(entry.begin == position && entry.bytes() >= 0);
    fuzz::hold(entry.shape.count() * static_cast<std::int64_t>(dtype_size(entry.dtype)) == entry.bytes());
    position = entry.end;
  }
  fuzz::hold(header.data_begin + position == file_size);
  // What was read can be written, and is read as the same.
  std::vector<TensorEntry> tensors = header.tensors;
  sort_for_alignment(tensors);
  const std::string text = build_safetensors_header(tensors, header.metadata);
  const SafetensorsHeader again =
      parse_safetensors_header(std::as_bytes(std::span(text.data(), text.size())),
                               static_cast<std::int64_t>(text.size()) + position, "again");
  fuzz::hold(again.tensors.size() == tensors.size() && again.metadata == header.metadata);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::string file(reinterpret_cast<const char*>(data) + 1, size - 1);
  auto file_size = static_cast<std::int64_t>(file.size());
  if ((data[0] & 1) == 0) {
    const std::uint64_t length = file.size();
    file.insert(0, 8, '\0');
    std::memcpy(file.data(), &length, 8);
    file_size += 8 + 16 * (data[0] >> 1);
  }
  fuzz::accepts([&] {
    check(parse_safetensors_header(std::as_bytes(std::span(file.data(), file.size())), file_size, "fuzz"),
          file_size);
  });
  return 0;
}
