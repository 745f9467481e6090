// A packed directory on disk: the fuzzer chooses pattern, type, layout and extents, fills the tensors, and
// damages the files. What validation accepts must unpack.
#include <fuzzer/FuzzedDataProvider.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <vector>

#include "core/parallel.h"
#include "fuzz.h"
#include "io/packed_directory.h"
#include "slidesparse/format/pack.h"
#include "slidesparse/format/split.h"

namespace {

using namespace slidesparse;
namespace fs = std::filesystem;

// One directory a process, in memory where the machine offers that; removed at the end.
struct Scratch {
  fs::path path;
  Scratch() {
    std::string name = (fs::exists("/dev/shm") ? fs::path("/dev/shm") : fs::temp_directory_path()) /
                       "slidesparse_fuzz_XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    path = name;
  }
  ~Scratch() {
    std::error_code error;
    fs::remove_all(path, error);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

void write(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

void damage(FuzzedDataProvider& choose, std::string& text) {
  for (int edits = choose.ConsumeIntegralInRange<int>(0, 3); edits > 0 && !text.empty(); --edits) {
    text[choose.ConsumeIntegralInRange<std::size_t>(0, text.size() - 1)] = choose.ConsumeIntegral<char>();
  }
  if (choose.ConsumeProbability<float>() < 0.05f)
    text.resize(choose.ConsumeIntegralInRange<std::size_t>(0, text.size()));
}

// Bytes for a tensor: what the fuzzer has left, then zeros.
std::string content(FuzzedDataProvider& choose, std::int64_t bytes) {
  std::string text = choose.ConsumeBytesAsString(static_cast<std::size_t>(bytes));
  text.resize(static_cast<std::size_t>(bytes), '\0');
  return text;
}

void read_back(const fs::path& path, const PackedInfo& made, std::int64_t n, std::int64_t k) {
  const ModelDirectory directory(path);
  const auto info = parse_packed_info(directory.config_text(), "config.json");
  if (!info) return;
  const PackedLinear linear = read_packed_linear(directory, *info, "w", n, k, "perm");
  validate_packed_linear(linear);
  std::vector<std::byte> dense(static_cast<std::size_t>(n * k) * dtype_size(linear.dtype));
  try {
    if (linear.layout == PackedLayout::kSlide) {
      unpack_rows(linear.view(), 0, n, dense.data(), k);
    } else {
      split_unpack_rows(split_shape(linear.pattern, k), linear.perm, linear.dtype, linear.values,
                        linear.codes, n, dense.data(), k);
    }
  } catch (const Error&) {
    std::abort();  // validated, and yet not unpacked
  }
  fuzz::hold(made.format_version == info->format_version);
}

}  // namespace

// One thread: the matrices are tiny, and starting a team for each of them takes most of the time.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  slidesparse::set_thread_count(1);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Scratch scratch;
  FuzzedDataProvider choose(data, size);
  PackedInfo info;
  const int half = choose.ConsumeIntegralInRange<int>(1, 8);
  info.pattern = half == 1 ? Pattern() : Pattern::of_half_group(half);
  info.layout =
      !info.pattern.is_dense() && choose.ConsumeBool() ? PackedLayout::kSplit : PackedLayout::kSlide;
  info.dtype = choose.PickValueInArray({DType::kI8, DType::kF8E4M3, DType::kBF16});
  const auto n = choose.ConsumeIntegralInRange<std::int64_t>(1, 4);
  const auto k = choose.ConsumeIntegralInRange<std::int64_t>(1, 300);
  const bool split = info.layout == PackedLayout::kSplit;
  const SplitShape shape = split ? split_shape(info.pattern, k) : SplitShape{};
  const std::int64_t values = split ? shape.values_per_row() : info.pattern.values_per_row(k);
  const std::int64_t codes = split ? shape.code_bytes_per_row() : info.pattern.code_bytes_per_row(k);

  std::vector<TensorEntry> tensors;
  if (split) tensors.push_back({"perm", DType::kI32, Shape{k}});
  if (info.dtype != DType::kBF16)
    tensors.push_back(
        {"w.scale", choose.PickValueInArray({DType::kF32, DType::kBF16, DType::kF16}), Shape{n, 1}});
  tensors.push_back({"w.values", info.dtype, Shape{n, values}});
  if (!info.pattern.is_dense()) tensors.push_back({"w.codes", DType::kU8, Shape{n, codes}});
  sort_for_alignment(tensors);
  std::string file = build_safetensors_header(tensors, {});
  std::string config = config_with_packed_info("{}", info);
  damage(choose, config);
  damage(choose, file);
  const bool identity = choose.ConsumeBool();  // a permutation is too much to ask of chance
  for (const TensorEntry& entry : tensors) {
    if (entry.name == "perm" && identity) {
      for (std::int32_t i = 0; i < k; ++i) file.append(reinterpret_cast<const char*>(&i), sizeof(i));
    } else {
      file += content(choose, entry.bytes());
    }
  }
  write(scratch.path / "config.json", config);
  write(scratch.path / "model.safetensors", file);
  fuzz::accepts([&] { read_back(scratch.path, info, n, k); });
  return 0;
}
