#include "io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_set>

#include "core/checked.h"
#include "core/fail.h"
#include "core/text.h"
#include "io/json.h"

namespace slidesparse {
namespace {

static_assert(std::endian::native == std::endian::little,
              "safetensors are little-endian and are mapped, not converted");

constexpr std::string_view kMetadataKey = "__metadata__";

// Reads the header without building a JSON tree, so that a hostile 100 MB header costs no more than what it
// declares. The accepted form is an object of objects; only "shape" and "data_offsets" hold lists.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  HeaderReader(SafetensorsHeader& header, const std::string& file) : header_(header), file_(file) {}

  bool start_object(std::size_t) override {
    if (depth_ == 0) {
      depth_ = 1;
    } else if (depth_ == 1) {
      depth_ = 2;
      in_metadata_ = name_ == kMetadataKey;
      if (!in_metadata_) {
        entry_ = TensorEntry{};
        entry_.name = name_;
        has_dtype_ = has_shape_ = has_offsets_ = false;
      }
    } else {
      wrong("an object");
    }
    return true;
  }

  bool end_object() override {
    if (depth_ == 2 && !in_metadata_) finish_entry();
    --depth_;
    return true;
  }

  bool key(string_t& text) override {
    if (depth_ == 1) {
      if (!names_.insert(text).second)
        fail_input("{}: \"{}\" stands twice in the header", file_, printable(text));
      name_ = text;
      return true;
    }
    key_ = text;
    if (in_metadata_) {
      if (header_.metadata.contains(text))
        fail_input("{}: metadata key \"{}\" stands twice", file_, printable(text));
      return true;
    }
    bool* seen = text == "dtype"          ? &has_dtype_
                 : text == "shape"        ? &has_shape_
                 : text == "data_offsets" ? &has_offsets_
                                          : nullptr;
    if (seen == nullptr) {
      fail_input("{}: tensor {}: unknown key \"{}\"; dtype, shape and data_offsets are expected", file_,
                 printable(name_), printable(text));
    }
    if (*seen) fail_input("{}: tensor {}: key \"{}\" stands twice", file_, printable(name_), text);
    *seen = true;
    return true;
  }

  bool string(string_t& text) override {
    if (depth_ == 2 && in_metadata_) {
      header_.metadata.emplace(key_, text);
    } else if (depth_ == 2 && !in_list_ && key_ == "dtype") {
      const auto dtype = parse_dtype(text);
      if (!dtype) {
        fail_input(
            "{}: tensor {}: dtype \"{}\" is not one of F64, F32, F16, BF16, F8_E4M3, F8_E5M2, I64, I32, I16, "
            "I8, U8, BOOL",
            file_, printable(name_), printable(text, 40));
      }
      entry_.dtype = *dtype;
    } else {
      wrong("a string");
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_metadata_ || in_list_ || key_ == "dtype") wrong("a list");
    in_list_ = true;
    list_.clear();
    return true;
  }

  bool end_array() override {
    in_list_ = false;
    if (key_ == "shape") {
      entry_.shape = Shape(std::span<const std::int64_t>(list_));
    } else {
      if (list_.size() != 2) {
        fail_input("{}: tensor {}: data_offsets has {} numbers, 2 are expected", file_, printable(name_),
                   list_.size());
      }
      entry_.begin = list_[0];
      entry_.end = list_[1];
    }
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (!in_list_) wrong("a number");
    if (value > static_cast<std::uint64_t>(INT64_MAX)) {
      fail_input("{}: tensor {}: {} holds {}, beyond 63 bits", file_, printable(name_), key_, value);
    }
    const std::size_t limit = key_ == "shape" ? std::size_t{Shape::kMaxRank} : 2;
    if (list_.size() >= limit) {
      fail_input("{}: tensor {}: {} has more than {} numbers", file_, printable(name_), key_, limit);
    }
    list_.push_back(static_cast<std::int64_t>(value));
    return true;
  }

  bool number_integer(number_integer_t value) override {
    if (in_list_)
      fail_input("{}: tensor {}: {} holds the negative number {}", file_, printable(name_), key_, value);
    wrong("a number");
  }
  bool number_float(number_float_t, const string_t& text) override { wrong(printable(text, 40)); }
  bool null() override { wrong("null"); }
  bool boolean(bool) override { wrong("true or false"); }
  bool binary(binary_t&) override { wrong("binary data"); }

  bool parse_error(std::size_t position, const std::string&, const Json::exception& error) override {
    std::string_view message = error.what();
    if (const auto bracket = message.find("] "); bracket != std::string_view::npos)
      message.remove_prefix(bracket + 2);
    fail_input("{}: the header is not valid JSON (byte {}): {}", file_, position, printable(message));
  }

 private:
  [[noreturn]] void wrong(const std::string& found) const {
    if (depth_ == 0) fail_input("{}: the header must be an object, found {}", file_, found);
    if (depth_ == 1)
      fail_input("{}: \"{}\" in the header must be an object, found {}", file_, printable(name_), found);
    fail_input("{}: \"{}\" of \"{}\" in the header cannot be {}", file_, printable(key_), printable(name_),
               found);
  }

  void finish_entry() {
    if (!has_dtype_ || !has_shape_ || !has_offsets_) {
      fail_input("{}: tensor {}: {} is missing", file_, printable(name_),
                 !has_dtype_   ? "dtype"
                 : !has_shape_ ? "shape"
                               : "data_offsets");
    }
    header_.tensors.push_back(std::move(entry_));
  }

  SafetensorsHeader& header_;
  const std::string& file_;
  int depth_ = 0;
  bool in_metadata_ = false;
  bool in_list_ = false;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  std::string name_;
  std::string key_;
  TensorEntry entry_;
  std::vector<std::int64_t> list_;
  std::unordered_set<std::string> names_;
};

// Bytes that a tensor of this type and shape takes, if that fits in 63 bits.
std::optional<std::int64_t> tensor_bytes(const TensorEntry& entry) {
  std::optional<std::int64_t> bytes = static_cast<std::int64_t>(dtype_size(entry.dtype));
  for (const std::int64_t dim : entry.shape.dims()) {
    bytes = checked_mul(*bytes, dim);
    if (!bytes) return bytes;
  }
  return bytes;
}

void check_ranges(SafetensorsHeader& header, std::int64_t data_bytes, const std::string& file) {
  // Empty tensors come before the one that begins where they do.
  std::stable_sort(header.tensors.begin(), header.tensors.end(),
                   [](const TensorEntry& a, const TensorEntry& b) {
                     return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
                   });
  std::int64_t expected = 0;
  for (const TensorEntry& entry : header.tensors) {
    if (entry.begin > entry.end || entry.end > data_bytes) {
      fail_input("{}: tensor {}: data_offsets [{}, {}] do not lie within the {} bytes of data", file,
                 printable(entry.name), entry.begin, entry.end, data_bytes);
    }
    const auto bytes = tensor_bytes(entry);
    if (!bytes) {
      fail_input("{}: tensor {}: {} elements of {} are more bytes than 63 bits count", file,
                 printable(entry.name), entry.shape.to_string(), dtype_name(entry.dtype));
    }
    if (*bytes != entry.bytes()) {
      fail_input("{}: tensor {}: {} {} takes {} bytes, data_offsets [{}, {}] hold {}", file,
                 printable(entry.name), dtype_name(entry.dtype), entry.shape.to_string(), *bytes, entry.begin,
                 entry.end, entry.bytes());
    }
    if (entry.begin != expected) {
      fail_input("{}: tensor {} begins at byte {} of the data, {} at byte {}", file, printable(entry.name),
                 entry.begin,
                 entry.begin < expected ? "overlapping the tensor that ends"
                                        : "leaving a hole after the data that ends",
                 expected);
    }
    expected = entry.end;
  }
  if (expected != data_bytes) {
    fail_input(
        "{}: the tensors end at byte {} of {} bytes of data: the file is cut off, damaged or has something "
        "appended",
        file, expected, data_bytes);
  }
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> prefix, std::int64_t file_size,
                                           const std::string& file) {
  const std::string name = printable(file, 400);
  if (file_size < 8 || prefix.size() < 8) {
    fail_input("{}: {} bytes long: not a safetensors file (8 bytes of header length are missing)", name,
               file_size);
  }
  std::uint64_t length = 0;
  std::memcpy(&length, prefix.data(), sizeof(length));
  if (length > static_cast<std::uint64_t>(kMaxSafetensorsHeader)) {
    fail_input(
        "{}: header length {} exceeds the {} bytes that the safetensors format allows: not such a file, or "
        "damaged",
        name, length, kMaxSafetensorsHeader);
  }
  if (length > static_cast<std::uint64_t>(file_size - 8) || length > prefix.size() - 8) {
    fail_input("{}: header length {} does not fit into the file of {} bytes: cut off or damaged", name,
               length, file_size);
  }
  const char* text = reinterpret_cast<const char*>(prefix.data()) + 8;
  if (length < 2 || text[0] != '{') fail_input("{}: the header does not begin with '{{'", name);

  SafetensorsHeader header;
  header.data_begin = 8 + static_cast<std::int64_t>(length);
  HeaderReader reader(header, name);
  try {
    Json::sax_parse(text, text + length, &reader);
  } catch (const Json::exception& error) {
    fail_input("{}: the header is not valid JSON: {}", name, printable(error.what()));
  }
  check_ranges(header, file_size - header.data_begin, name);
  return header;
}

void sort_for_alignment(std::vector<TensorEntry>& tensors) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return dtype_size(a.dtype) > dtype_size(b.dtype);
  });
}

std::string build_safetensors_header(std::vector<TensorEntry>& tensors,
                                     const std::map<std::string, std::string>& metadata) {
  OrderedJson header = OrderedJson::object();
  if (!metadata.empty()) header[std::string(kMetadataKey)] = metadata;
  std::int64_t position = 0;
  std::unordered_set<std::string_view> names;
  for (TensorEntry& entry : tensors) {
    const auto bytes = tensor_bytes(entry);
    const auto end = bytes ? checked_add(position, *bytes) : std::nullopt;
    if (!end)
      fail_input("tensor {}: {} is more bytes than 63 bits count", printable(entry.name),
                 entry.shape.to_string());
    require(names.insert(entry.name).second && entry.name != kMetadataKey, "tensor name {} cannot be written",
            printable(entry.name));
    require(position % static_cast<std::int64_t>(dtype_size(entry.dtype)) == 0,
            "tensor {} of {} would start at byte {}: order the tensors with sort_for_alignment()",
            printable(entry.name), dtype_name(entry.dtype), position);
    entry.begin = position;
    entry.end = *end;
    position = *end;
    const auto dims = entry.shape.dims();
    OrderedJson item = OrderedJson::object();
    item["dtype"] = dtype_name(entry.dtype);
    item["shape"] = std::vector<std::int64_t>(dims.begin(), dims.end());
    item["data_offsets"] = {entry.begin, entry.end};
    // Appended without a search for the name, which ordered_json would do in linear time: names are unique
    // already.
    header.get_ref<OrderedJson::object_t&>().push_back({entry.name, std::move(item)});
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const Json::exception&) {
    fail_input("a tensor name or a metadata text is not UTF-8: it cannot be written to a safetensors file");
  }
  text.resize(static_cast<std::size_t>(round_up(static_cast<std::int64_t>(text.size()), 8)), ' ');
  if (static_cast<std::int64_t>(text.size()) > kMaxSafetensorsHeader) {
    fail_input("{} tensors need a header of {} bytes, the safetensors format allows {}", tensors.size(),
               text.size(), kMaxSafetensorsHeader);
  }
  const std::uint64_t length = text.size();
  std::string result(sizeof(length), '\0');
  std::memcpy(result.data(), &length, sizeof(length));
  return result + text;
}

}  // namespace slidesparse
