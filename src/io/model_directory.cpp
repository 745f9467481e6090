#include "io/model_directory.h"

#include <algorithm>
#include <set>
#include <system_error>

#include "core/fail.h"
#include "core/text.h"
#include "io/journal.h"
#include "io/json.h"
#include "io/mapped_file.h"

namespace slidesparse {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
// config.json of real models has a few kB; the `slidesparse` section adds about 100 bytes an exception.
constexpr std::int64_t kMaxConfigBytes = 16 << 20;

std::string name_of(const fs::path& path) {
  return printable(path.string(), 400);
}

// Whether DIR/name is there as a regular file or a link to one. Anything else that has the name is refused.
bool is_there(const fs::path& path) {
  std::error_code error;
  const fs::file_status link = fs::symlink_status(path, error);
  if (link.type() == fs::file_type::not_found) return false;
  if (error) fail(ErrorKind::kIo, "{}: {}", name_of(path), error.message());
  const fs::file_status target = fs::status(path, error);
  if (fs::is_symlink(link) && target.type() == fs::file_type::not_found) {
    fail_input("{}: a link that leads nowhere ({}); an incomplete download?", name_of(path),
               name_of(fs::read_symlink(path, error)));
  }
  if (error) fail(ErrorKind::kIo, "{}: {}", name_of(path), error.message());
  if (!fs::is_regular_file(target)) {
    fail_input("{}: expected a file, found {}{}", name_of(path), fs::is_symlink(link) ? "a link to " : "",
               fs::is_directory(target) ? "a directory" : "something that is no regular file");
  }
  return true;
}

bool ends_with_any(const std::string& name, std::initializer_list<std::string_view> suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(),
                     [&](std::string_view suffix) { return name.ends_with(suffix); });
}

// Why a shard name of the index cannot be used, or an empty text.
std::string shard_name_problem(const std::string& name) {
  if (name.empty()) return "is empty";
  if (name.size() > 255) return "is longer than 255 bytes";
  if (name.find('/') != std::string::npos || name.find('\\') != std::string::npos)
    return "is a path, not a plain file name";
  if (name.find('\0') != std::string::npos) return "holds a zero byte";
  if (name.front() == '.') return "begins with a dot";
  if (!name.ends_with(".safetensors")) return "does not end in .safetensors";
  return "";
}

}  // namespace

std::map<std::string, std::string> parse_weight_index(std::string_view text, const std::string& file) {
  const Json index = parse_json(text, file, 8);
  const std::string where = printable(file, 400);
  const Json* map = json_object_or_null(index, "weight_map", where);
  if (map == nullptr) fail_input("{}: key \"weight_map\" is missing", where);
  if (map->empty()) fail_input("{}: \"weight_map\" names no tensor", where);
  std::map<std::string, std::string> result;
  for (const auto& item : map->items()) {
    const std::string shard = json_string(*map, item.key(), where);
    const std::string problem = shard_name_problem(shard);
    if (!problem.empty()) {
      fail_input("{}: tensor {}: shard name \"{}\" {}", where, printable(item.key()), printable(shard),
                 problem);
    }
    result.emplace(item.key(), shard);
  }
  return result;
}

struct ModelDirectory::State {
  struct Shard {
    std::string name;
    MappedFile file;
    std::int64_t data_begin = 0;
  };

  fs::path path;
  std::string config;
  std::vector<Shard> shards;
  std::vector<TensorEntry> tensors;   // sorted by name
  std::vector<std::size_t> shard_of;  // index into shards, one a tensor
  std::int64_t total_bytes = 0;

  void open_shard(const std::string& name);
  void check_index(const std::map<std::string, std::string>& index) const;
  void sort_tensors();
  // Position in `tensors`, or nothing.
  std::optional<std::size_t> locate(std::string_view name) const;
  std::size_t need(std::string_view name) const;
  TensorView view(std::size_t i) const;
};

void ModelDirectory::State::open_shard(const std::string& name) {
  const fs::path file = path / name;
  if (!is_there(file)) {
    fail_input("{}: shard {} that {} names is missing: an incomplete download?", name_of(path),
               printable(name), kIndexFile);
  }
  Shard shard{name, MappedFile(file)};
  SafetensorsHeader header = parse_safetensors_header(shard.file.bytes(), shard.file.size(), file.string());
  shard.data_begin = header.data_begin;
  for (TensorEntry& entry : header.tensors) {
    const auto size = static_cast<std::int64_t>(dtype_size(entry.dtype));
    if ((header.data_begin + entry.begin) % size != 0 && entry.bytes() > 0) {
      fail_input(
          "{}: tensor {} of {} starts at byte {}, not a multiple of {}; save the file again with safetensors "
          "0.4 or later",
          name_of(file), printable(entry.name), dtype_name(entry.dtype), header.data_begin + entry.begin,
          size);
    }
    total_bytes += entry.bytes();
    tensors.push_back(std::move(entry));
    shard_of.push_back(shards.size());
  }
  shards.push_back(std::move(shard));
}

void ModelDirectory::State::sort_tensors() {
  std::vector<std::size_t> order(tensors.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return tensors[a].name < tensors[b].name; });
  std::vector<TensorEntry> sorted;
  std::vector<std::size_t> sorted_shards;
  sorted.reserve(order.size());
  sorted_shards.reserve(order.size());
  for (const std::size_t i : order) {
    sorted.push_back(std::move(tensors[i]));
    sorted_shards.push_back(shard_of[i]);
  }
  tensors = std::move(sorted);
  shard_of = std::move(sorted_shards);
  for (std::size_t i = 1; i < tensors.size(); ++i) {
    if (tensors[i].name == tensors[i - 1].name) {
      fail_input("{}: tensor {} stands in both {} and {}", name_of(path), printable(tensors[i].name),
                 printable(shards[shard_of[i - 1]].name), printable(shards[shard_of[i]].name));
    }
  }
}

void ModelDirectory::State::check_index(const std::map<std::string, std::string>& index) const {
  for (const auto& [name, shard] : index) {
    const auto i = locate(name);
    if (!i) {
      fail_input("{}: {} says that tensor {} is in {}, which does not hold it", name_of(path), kIndexFile,
                 printable(name), printable(shard));
    }
    if (shards[shard_of[*i]].name != shard) {
      fail_input("{}: {} says that tensor {} is in {}, it is in {}", name_of(path), kIndexFile,
                 printable(name), printable(shard), printable(shards[shard_of[*i]].name));
    }
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (!index.contains(tensors[i].name)) {
      fail_input("{}: tensor {} of {} is missing in {}", name_of(path), printable(tensors[i].name),
                 printable(shards[shard_of[i]].name), kIndexFile);
    }
  }
}

std::optional<std::size_t> ModelDirectory::State::locate(std::string_view name) const {
  const auto entry = std::lower_bound(tensors.begin(), tensors.end(), name,
                                      [](const TensorEntry& a, std::string_view b) { return a.name < b; });
  if (entry == tensors.end() || entry->name != name) return std::nullopt;
  return static_cast<std::size_t>(entry - tensors.begin());
}

std::size_t ModelDirectory::State::need(std::string_view name) const {
  const auto i = locate(name);
  if (!i)
    fail_input("{}: tensor {} is missing (the directory holds {} tensors)", name_of(path), printable(name),
               tensors.size());
  return *i;
}

TensorView ModelDirectory::State::view(std::size_t i) const {
  const TensorEntry& entry = tensors[i];
  const Shard& shard = shards[shard_of[i]];
  const std::byte* data = shard.file.bytes().data() + shard.data_begin + entry.begin;
  return TensorView::contiguous(static_cast<const void*>(data), entry.dtype, entry.shape);
}

ModelDirectory::ModelDirectory(const fs::path& path) : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.path = path;
  const std::string name = name_of(path);
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) fail(ErrorKind::kIo, "{}: no such directory", name);
  if (error) fail(ErrorKind::kIo, "{}: {}", name, error.message());
  if (!fs::is_directory(status))
    fail_input("{}: not a directory; a Hugging Face model directory is expected", name);
  if (fs::symlink_status(path / kJournalName, error).type() != fs::file_type::not_found) {
    fail_input(
        "{}: an unfinished conversion ({} is there): run the same command again to finish it, or delete the "
        "directory",
        name, kJournalName);
  }
  if (!is_there(path / "config.json")) {
    fail_input(
        "{}: no config.json: not a model directory, or its download or conversion is unfinished: repeat that",
        name);
  }
  state.config = read_text_file(path / "config.json", kMaxConfigBytes);

  const bool single = is_there(path / kSingleFile);
  const bool indexed = is_there(path / kIndexFile);
  if (single && indexed) {
    fail_input("{}: both {} and {} are there; move the one that is out of date away", name, kSingleFile,
               kIndexFile);
  }
  if (!single && !indexed) {
    fail_input("{}: neither {} nor {} is there; weights in other formats (.bin, .gguf) are not read", name,
               kSingleFile, kIndexFile);
  }
  if (single) {
    state.open_shard(kSingleFile);
    state.sort_tensors();
    return;
  }
  const auto index = parse_weight_index(read_text_file(path / kIndexFile), (path / kIndexFile).string());
  std::set<std::string> names;
  for (const auto& [tensor, shard] : index) names.insert(shard);
  for (const std::string& shard : names) state.open_shard(shard);
  state.sort_tensors();
  state.check_index(index);
}

ModelDirectory::~ModelDirectory() = default;
ModelDirectory::ModelDirectory(ModelDirectory&&) noexcept = default;
ModelDirectory& ModelDirectory::operator=(ModelDirectory&&) noexcept = default;

const fs::path& ModelDirectory::path() const {
  return state_->path;
}
const std::string& ModelDirectory::config_text() const {
  return state_->config;
}
const std::vector<TensorEntry>& ModelDirectory::tensors() const {
  return state_->tensors;
}
bool ModelDirectory::contains(std::string_view name) const {
  return state_->locate(name).has_value();
}
TensorView ModelDirectory::tensor(std::string_view name) const {
  return state_->view(state_->need(name));
}

std::optional<TensorView> ModelDirectory::find(std::string_view name) const {
  const auto i = state_->locate(name);
  if (!i) return std::nullopt;
  return state_->view(*i);
}

TensorView ModelDirectory::tensor(std::string_view name, const Shape& expected) const {
  const std::size_t i = state_->need(name);
  const TensorEntry& entry = state_->tensors[i];
  if (entry.shape != expected) {
    fail_input("{}: tensor {}: expected shape {}, found {}", name_of(state_->path / file_of(name)),
               printable(name), expected.to_string(), entry.shape.to_string());
  }
  return state_->view(i);
}

std::string ModelDirectory::file_of(std::string_view name) const {
  return state_->shards[state_->shard_of[state_->need(name)]].name;
}

std::int64_t ModelDirectory::total_tensor_bytes() const {
  return state_->total_bytes;
}

void ModelDirectory::prefetch(std::string_view name) const {
  const std::size_t i = state_->need(name);
  const State::Shard& shard = state_->shards[state_->shard_of[i]];
  shard.file.prefetch(shard.data_begin + state_->tensors[i].begin, state_->tensors[i].bytes());
}

void ModelDirectory::release(std::string_view name) const {
  const std::size_t i = state_->need(name);
  const State::Shard& shard = state_->shards[state_->shard_of[i]];
  shard.file.release(shard.data_begin + state_->tensors[i].begin, state_->tensors[i].bytes());
}

std::vector<std::string> ModelDirectory::side_files() const {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator item(state_->path, error), end; item != end && !error; item.increment(error)) {
    const std::string name = item->path().filename().string();
    if (name == "config.json" || name.starts_with('.') ||
        ends_with_any(name, {".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pth",
                             ".pt", ".gguf", ".h5", ".msgpack", ".onnx", ".tmp"})) {
      continue;
    }
    std::error_code status_error;
    if (fs::is_regular_file(fs::status(item->path(), status_error))) names.push_back(name);
  }
  if (error)
    fail(ErrorKind::kIo, "{}: cannot list the directory: {}", name_of(state_->path), error.message());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace slidesparse
