#include "io/packed_directory.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/numeric.h"
#include "core/parallel.h"
#include "core/text.h"
#include "io/json.h"
#include "slidesparse/format/codes.h"

namespace slidesparse {
namespace {

constexpr const char* kSection = "slidesparse";
// The head is quantised at most, never pruned.
constexpr std::string_view kHead = "lm_head";
constexpr std::size_t kMaxText = 4096;  // free texts of the section
constexpr std::size_t kMaxName = 512;   // names of linears
constexpr std::size_t kMaxExceptions = 10'000;

const Pattern kDensePattern;

Pattern parse_pattern(const Json& object, const std::string& where) {
  try {
    return Pattern::parse(json_string(object, "pattern", where));
  } catch (const Error& error) {
    // The pattern's own message does not know where the text came from.
    if (std::string_view(error.what()).starts_with(where)) throw;
    fail_input("{}: pattern: {}", where, error.what());
  }
}

std::string bounded_text(const Json& object, const char* key, const std::string& where,
                         std::size_t limit = kMaxText) {
  std::string text = json_string(object, key, where);
  if (text.size() > limit)
    fail_input("{}: \"{}\" has {} bytes, at most {} are accepted", where, key, text.size(), limit);
  return text;
}

void check_keys(const Json& object, std::initializer_list<std::string_view> known, const std::string& where) {
  for (const auto& item : object.items()) {
    if (std::find(known.begin(), known.end(), item.key()) == known.end()) {
      fail_input("{}: unknown key \"{}\" in format version {}", where, printable(item.key()),
                 PackedInfo::kFormatVersion);
    }
  }
}

void check_layout(Pattern pattern, PackedLayout layout, const std::string& where) {
  if (pattern.is_dense() && layout == PackedLayout::kSplit)
    fail_input("{}: layout split needs a pattern, found dense", where);
}

PackedInfo::LayerException parse_exception(const std::string& name, const Json& value,
                                           const std::string& where) {
  if (name.empty() || name.size() > kMaxName) {
    fail_input("{}: name of a linear has {} bytes, 1 to {} are accepted", where, name.size(), kMaxName);
  }
  const std::string place = where + ": " + printable(name);
  if (!value.is_object()) fail_input("{}: expected an object", place);
  check_keys(value, {"pattern", "layout", "reason"}, place);
  PackedInfo::LayerException exception;
  exception.pattern = parse_pattern(value, place);
  exception.layout = parse_packed_layout(json_string(value, "layout", place), place);
  exception.reason = bounded_text(value, "reason", place);
  check_layout(exception.pattern, exception.layout, place);
  return exception;
}

OrderedJson to_json(const PackedInfo& info) {
  OrderedJson section = OrderedJson::object();
  section["format_version"] = info.format_version;
  section["pattern"] = info.pattern.to_string();
  section["layout"] = packed_layout_name(info.layout);
  section["dtype"] = dtype_name(info.dtype);
  section["method"] = info.method;
  section["calibration"] = info.calibration;
  section["head"] = dtype_word(info.head);
  section["source_sha256"] = info.source_sha256;
  section["tool_version"] = info.tool_version;
  OrderedJson exceptions = OrderedJson::object();
  for (const auto& [name, exception] : info.exceptions) {
    OrderedJson item = OrderedJson::object();
    item["pattern"] = exception.pattern.to_string();
    item["layout"] = packed_layout_name(exception.layout);
    item["reason"] = exception.reason;
    exceptions.get_ref<OrderedJson::object_t&>().push_back({name, std::move(item)});
  }
  section["exceptions"] = std::move(exceptions);
  return section;
}

// A tensor of the directory with exactly this type and shape.
TensorView exact_tensor(const ModelDirectory& directory, const std::string& name, DType dtype,
                        const Shape& shape) {
  const TensorView view = directory.tensor(name, shape);
  if (view.dtype != dtype) {
    fail_input("{}: tensor {}: expected dtype {}, found {}",
               printable((directory.path() / directory.file_of(name)).string(), 400), printable(name),
               dtype_name(dtype), dtype_name(view.dtype));
  }
  return view;
}

void refuse_tensor(const ModelDirectory& directory, const std::string& name, const char* why) {
  if (directory.contains(name)) {
    fail_input("{}: tensor {} is there, but {}",
               printable((directory.path() / directory.file_of(name)).string(), 400), printable(name), why);
  }
}

float scale_value(const TensorView& scale, std::int64_t row) {
  if (scale.dtype == DType::kF32) return scale.as<const float>()[row];
  const std::uint16_t bits = scale.as<const std::uint16_t>()[row];
  return scale.dtype == DType::kBF16 ? bf16_to_float(bits) : f16_to_float(bits);
}

// Column of the first element of a row that is no number (FP8 NaN, BF16 NaN or infinity), or -1.
std::int64_t find_not_finite(DType dtype, const std::byte* row, std::int64_t count) {
  if (dtype == DType::kF8E4M3) {
    for (std::int64_t i = 0; i < count; ++i) {
      if ((static_cast<unsigned>(row[i]) & 0x7fu) == 0x7fu) return i;
    }
  } else if (dtype == DType::kBF16) {
    for (std::int64_t i = 0; i < count; ++i) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, row + 2 * i, sizeof(bits));
      if ((bits & 0x7f80u) == 0x7f80u) return i;
    }
  }
  return -1;
}

bool all_zero(DType dtype, const std::byte* row, std::int64_t count) {
  const unsigned ignored_sign = dtype == DType::kF8E4M3 ? 0x7fu : 0xffu;
  return std::none_of(row, row + count,
                      [&](std::byte value) { return (static_cast<unsigned>(value) & ignored_sign) != 0; });
}

void check_scale(const PackedLinear& linear, std::int64_t row, const std::byte* values, std::int64_t count) {
  const float scale = scale_value(*linear.scale, row);
  const bool usable = std::isfinite(scale) && (scale > 0 || (scale == 0 && !std::signbit(scale)));
  if (!usable)
    fail_input("tensor {}.scale: row {}: {} is no scale: it must be finite and not negative",
               printable(linear.name), row, scale);
  if (scale == 0 && !all_zero(linear.dtype, values, count)) {
    fail_input("tensor {}.scale: row {}: 0, but the row of {}.values is not all zero", printable(linear.name),
               row, printable(linear.name));
  }
}

// Codes of the 2:4 part of a split row: there is no tail, because that part is a multiple of 64.
void check_split_codes(const PackedLinear& linear, const SplitShape& shape, std::int64_t row) {
  const Pattern pattern = Pattern::of_half_group(2);
  const std::uint8_t* codes = linear.codes + row * shape.code_bytes_per_row();
  for (std::int64_t g = 0; g < pattern.groups(shape.sparse); ++g) {
    const int code = read_code(codes, pattern.code_bits(), g);
    if (code >= code_count(pattern)) {
      fail_input("tensor {}.codes: row {}, quad {}: code {} names no pair (0 to {} do)",
                 printable(linear.name), row, g, code, code_count(pattern) - 1);
    }
  }
}

}  // namespace

std::string_view packed_layout_name(PackedLayout layout) {
  return layout == PackedLayout::kSlide ? "slide" : "split";
}

PackedLayout parse_packed_layout(std::string_view text, const std::string& where) {
  for (const PackedLayout layout : {PackedLayout::kSlide, PackedLayout::kSplit}) {
    if (packed_layout_name(layout) == text) return layout;
  }
  fail_input("{}: layout must be \"slide\" or \"split\", found \"{}\"", where, printable(text, 40));
}

const Pattern& PackedInfo::pattern_of(const std::string& linear) const {
  if (linear == kHead) return kDensePattern;
  const auto exception = exceptions.find(linear);
  return exception == exceptions.end() ? pattern : exception->second.pattern;
}

PackedLayout PackedInfo::layout_of(const std::string& linear) const {
  if (linear == kHead) return PackedLayout::kSlide;
  const auto exception = exceptions.find(linear);
  return exception == exceptions.end() ? layout : exception->second.layout;
}

std::optional<PackedInfo> parse_packed_info(const std::string& config_text, const std::string& file) {
  const Json config = parse_json(config_text, file);
  const Json* section = json_object_or_null(config, kSection, printable(file, 400));
  if (section == nullptr) return std::nullopt;
  const std::string where = printable(file, 400) + ": " + kSection;

  PackedInfo info;
  // The version first: another version may mean anything by the other keys.
  info.format_version = static_cast<int>(json_int(*section, "format_version", where, 0, 1'000'000));
  if (info.format_version != PackedInfo::kFormatVersion) {
    fail(ErrorKind::kUnsupported,
         "{}: format version {}, this program reads version {}; use the program that wrote it, or convert "
         "again",
         where, info.format_version, PackedInfo::kFormatVersion);
  }
  check_keys(*section,
             {"format_version", "pattern", "layout", "dtype", "method", "calibration", "head",
              "source_sha256", "tool_version", "exceptions"},
             where);
  info.pattern = parse_pattern(*section, where);
  info.layout = parse_packed_layout(json_string(*section, "layout", where), where);
  check_layout(info.pattern, info.layout, where);
  const std::string dtype = json_string(*section, "dtype", where);
  const auto parsed = parse_dtype(dtype);
  if (parsed != DType::kI8 && parsed != DType::kF8E4M3 && parsed != DType::kBF16) {
    fail_input("{}: dtype must be I8, F8_E4M3 or BF16, found \"{}\"", where, printable(dtype, 40));
  }
  info.dtype = *parsed;
  info.method = bounded_text(*section, "method", where);
  info.calibration = bounded_text(*section, "calibration", where);
  const std::string head = bounded_text(*section, "head", where);
  if (head != kBf16Word && head != kInt8Word) {
    fail_input("{}: head must be \"bf16\" or \"int8\", found \"{}\"", where, printable(head, 40));
  }
  info.head = head == kInt8Word ? DType::kI8 : DType::kBF16;
  info.source_sha256 = bounded_text(*section, "source_sha256", where);
  info.tool_version = bounded_text(*section, "tool_version", where);
  if (!info.source_sha256.empty() &&
      (info.source_sha256.size() != 64 ||
       info.source_sha256.find_first_not_of("0123456789abcdef") != std::string::npos)) {
    fail_input("{}: source_sha256 must be 64 lower-case hex digits, found \"{}\"", where,
               printable(info.source_sha256, 80));
  }
  const std::string place = where + ": exceptions";
  if (const Json* exceptions = json_object_or_null(*section, "exceptions", where); exceptions != nullptr) {
    if (exceptions->size() > kMaxExceptions) {
      fail_input("{}: {} entries, at most {} are accepted", place, exceptions->size(), kMaxExceptions);
    }
    for (const auto& item : exceptions->items()) {
      info.exceptions.emplace(item.key(), parse_exception(item.key(), item.value(), place));
    }
  }
  return info;
}

std::string config_with_packed_info(const std::string& config_text, const PackedInfo& info) {
  OrderedJson config = parse_ordered_object(config_text, "config.json");
  config.erase("quantization_config");
  config.erase(kSection);
  config[kSection] = to_json(info);
  return config.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

PackedLinear read_packed_linear(const ModelDirectory& directory, const PackedInfo& info,
                                const std::string& name, std::int64_t n, std::int64_t k,
                                const std::string& perm_name) {
  require(n > 0 && k > 0, "linear {}: extents {} x {}", printable(name), n, k);
  PackedLinear linear;
  linear.name = name;
  linear.n = n;
  linear.k = k;
  linear.pattern = info.pattern_of(name);
  linear.layout = info.layout_of(name);
  linear.dtype = info.dtype;
  if (name == kHead) {
    require(info.head == DType::kI8, "{} is not quantised in {}", name,
            printable(directory.path().string(), 400));
    linear.dtype = DType::kI8;
  }

  std::int64_t values = linear.pattern.values_per_row(k);
  std::int64_t code_bytes = linear.pattern.code_bytes_per_row(k);
  if (linear.layout == PackedLayout::kSplit) {
    const SplitShape shape = split_shape(linear.pattern, k);
    values = shape.values_per_row();
    code_bytes = shape.code_bytes_per_row();
    const TensorView perm = exact_tensor(directory, perm_name, DType::kI32, Shape{k});
    linear.perm = {perm.as<const std::int32_t>(), static_cast<std::size_t>(k)};
  }
  linear.values = exact_tensor(directory, name + ".values", linear.dtype, Shape{n, values}).data;
  if (linear.pattern.is_dense()) {
    refuse_tensor(directory, name + ".codes", "the linear is dense");
  } else {
    linear.codes =
        exact_tensor(directory, name + ".codes", DType::kU8, Shape{n, code_bytes}).as<const std::uint8_t>();
  }
  if (linear.dtype == DType::kBF16) {
    refuse_tensor(directory, name + ".scale", "BF16 weights have no scale");
    return linear;
  }
  linear.scale = directory.tensor(name + ".scale", Shape{n, 1});
  const DType scale = linear.scale->dtype;
  if (scale != DType::kBF16 && scale != DType::kF16 && scale != DType::kF32) {
    fail_input("{}: tensor {}.scale: expected dtype BF16, F16 or F32, found {}",
               printable((directory.path() / directory.file_of(name + ".scale")).string(), 400),
               printable(name), dtype_name(scale));
  }
  return linear;
}

void validate_packed_linear(const PackedLinear& linear) {
  const bool split = linear.layout == PackedLayout::kSplit;
  const SplitShape shape = split ? split_shape(linear.pattern, linear.k) : SplitShape{};
  if (split) {
    validate_perm(shape, linear.perm, linear.name + " (permutation)");
  } else if (!linear.pattern.is_dense()) {
    validate_packed(linear.view(), linear.name);
  }
  const std::int64_t count = split ? shape.values_per_row() : linear.pattern.values_per_row(linear.k);
  const std::int64_t row_bytes = count * static_cast<std::int64_t>(dtype_size(linear.dtype));
  const auto* values = static_cast<const std::byte*>(linear.values);
  parallel_for(linear.n, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::byte* data = values + row * row_bytes;
      if (const std::int64_t column = find_not_finite(linear.dtype, data, count); column >= 0) {
        fail_input("tensor {}.values: row {}, column {} is not a finite number", printable(linear.name), row,
                   column);
      }
      if (split) check_split_codes(linear, shape, row);
      if (linear.scale) check_scale(linear, row, data, count);
    }
  });
}

}  // namespace slidesparse
