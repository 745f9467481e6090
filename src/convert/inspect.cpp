#include "convert/inspect.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <set>

#include "convert/work.h"
#include "core/dtype_words.h"
#include "core/fail.h"
#include "core/interrupt.h"
#include "core/numeric.h"
#include "core/progress.h"
#include "core/text.h"
#include "io/compressed_tensors.h"
#include "io/json.h"
#include "model/config.h"
#include "model/weights.h"
#include "quant/weights.h"
#include "slidesparse/format/pack.h"

namespace slidesparse {
namespace {

constexpr std::int64_t kBlockBytes = 1 << 20;

// What the bits of an element say: a zero, and a number that is not finite.
struct ElementMasks {
  std::uint32_t magnitude;   // no bit of these set: zero
  std::uint32_t not_finite;  // magnitudes from here on are NaN or infinite
};

std::optional<ElementMasks> element_masks(DType dtype) {
  switch (dtype) {
    case DType::kI8:
      return ElementMasks{0xff, 0x100};
    case DType::kF8E4M3:
      return ElementMasks{0x7f, 0x7f};
    case DType::kBF16:
      return ElementMasks{0x7fff, 0x7f80};
    case DType::kF16:
      return ElementMasks{0x7fff, 0x7c00};
    case DType::kF32:
      return ElementMasks{0x7fffffff, 0x7f800000};
    default:
      return std::nullopt;
  }
}

struct Counts {
  std::int64_t zeros = 0;
  std::int64_t first_not_finite = -1;
};

template <typename Bits>
Counts count_elements(const void* data, std::int64_t count, ElementMasks masks) {
  const auto* elements = static_cast<const Bits*>(data);
  std::int64_t zeros = 0;
  std::uint32_t largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t magnitude = elements[i] & masks.magnitude;
    zeros += magnitude == 0 ? 1 : 0;
    largest = std::max(largest, magnitude);
  }
  Counts counts{zeros, -1};
  if (largest >= masks.not_finite) {
    counts.first_not_finite = 0;
    while ((elements[counts.first_not_finite] & masks.magnitude) < masks.not_finite)
      ++counts.first_not_finite;
  }
  return counts;
}

Counts count_block(DType dtype, const void* data, std::int64_t count, ElementMasks masks) {
  switch (dtype_size(dtype)) {
    case 1:
      return count_elements<std::uint8_t>(data, count, masks);
    case 2:
      return count_elements<std::uint16_t>(data, count, masks);
    default:
      return count_elements<std::uint32_t>(data, count, masks);
  }
}

// The candidates that all blocks seen so far obey; blocks are looked at in any order.
class PatternSearch {
 public:
  PatternSearch() {
    for (auto& flag : possible_) flag.store(true);
  }

  void look(DType dtype, const void* rows, std::int64_t count, std::int64_t k) {
    std::vector<std::uint8_t> non_zero;
    if (dtype == DType::kF32) {  // the format's search knows elements of 1 and 2 bytes
      non_zero.resize(static_cast<std::size_t>(count * k));
      const auto* values = static_cast<const float*>(rows);
      for (std::size_t i = 0; i < non_zero.size(); ++i) non_zero[i] = values[i] != 0.0f ? 1 : 0;
      rows = non_zero.data();
      dtype = DType::kI8;
    }
    for (int half = 2; half <= 8; ++half) {
      std::atomic<bool>& flag = possible_[static_cast<std::size_t>(half - 2)];
      if (flag.load() && find_violation(Pattern::of_half_group(half), dtype, rows, count, k, k))
        flag.store(false);
    }
  }

  Pattern tightest() const {
    for (int half = 2; half <= 8; ++half) {
      if (possible_[static_cast<std::size_t>(half - 2)].load()) return Pattern::of_half_group(half);
    }
    return {};
  }

 private:
  std::array<std::atomic<bool>, 7> possible_;
};

void inspect_tensor(const ModelDirectory& directory, InspectRow& row) {
  const TensorView view = directory.tensor(row.name);
  const auto masks = element_masks(view.dtype);
  if (!masks || row.elements == 0) return;
  const bool matrix = view.rank() == 2;
  const std::int64_t rows = matrix ? view.dim(0) : 1;
  const std::int64_t k = row.elements / rows;
  const std::int64_t row_bytes = k * static_cast<std::int64_t>(dtype_size(view.dtype));
  const std::int64_t block = std::max<std::int64_t>(1, kBlockBytes / row_bytes);
  std::atomic<std::int64_t> zeros{0};
  PatternSearch search;
  run_tasks((rows + block - 1) / block, [&](std::int64_t task, int) {
    check_interrupt("nothing was changed");
    const std::int64_t first = task * block;
    const std::int64_t count = std::min(block, rows - first);
    const std::byte* data = view.as<const std::byte>() + first * row_bytes;
    const Counts counts = count_block(view.dtype, data, count * k, *masks);
    if (counts.first_not_finite >= 0) {
      fail_input("{}: tensor {}: row {}, column {} is not a finite number",
                 printable((directory.path() / directory.file_of(row.name)).string(), 400),
                 printable(row.name), first + counts.first_not_finite / k, counts.first_not_finite % k);
    }
    zeros += counts.zeros;
    if (matrix) search.look(view.dtype, data, count, k);
  });
  row.zeros = zeros.load();
  if (matrix) {
    row.pattern = search.tightest();
    row.layout = "dense";
  }
  directory.release(row.name);
}

InspectRow row_of(const ModelDirectory& directory, const std::string& name) {
  const TensorView view = directory.tensor(name);
  InspectRow row;
  row.name = name;
  row.shape = view.shape;
  row.dtype = view.dtype;
  row.elements = view.shape.count();
  row.bytes = view.byte_size();
  row.dense_bytes = row.bytes;
  return row;
}

void inspect_packed_linear(const ModelDirectory& directory, const PackedLinear& linear, InspectRow& row) {
  validate_packed_linear(linear);
  const std::int64_t values = directory.tensor(linear.name + ".values").shape.count();
  const auto masks = element_masks(linear.dtype);
  const Counts counts = count_block(linear.dtype, linear.values, values, *masks);
  row.name = linear.name;
  row.shape = {linear.n, linear.k};
  row.dtype = linear.dtype;
  row.linear = true;
  row.pattern = linear.pattern;
  row.layout = linear.pattern.is_dense()               ? "dense"
               : linear.layout == PackedLayout::kSlide ? "slide"
                                                       : "split";
  row.elements = linear.n * linear.k;
  row.zeros = row.elements - (values - counts.zeros);
  const std::int64_t scale_bytes = linear.scale ? linear.scale->byte_size() : 0;
  row.dense_bytes = row.elements * static_cast<std::int64_t>(dtype_size(linear.dtype)) + scale_bytes;
  row.bytes = directory.tensor(linear.name + ".values").byte_size() + scale_bytes;
  if (linear.codes != nullptr) row.bytes += directory.tensor(linear.name + ".codes").byte_size();
  directory.release(linear.name + ".values");
}

void inspect_packed(const ModelDirectory& directory, const ModelConfig& config, bool quiet,
                    Inspection& result) {
  const WeightTable table = weight_table(config);
  Progress progress("inspect", directory.total_tensor_bytes(), Progress::Unit::kBytes, quiet);
  const auto add_linear = [&](const std::string& name, std::int64_t n, std::int64_t k,
                              const std::string& perm) {
    InspectRow row;
    inspect_packed_linear(directory, read_packed_linear(directory, *result.info, name, n, k, perm), row);
    progress.advance(row.bytes);
    result.rows.push_back(std::move(row));
  };
  const auto add_plain = [&](const std::string& name, const Shape& shape) {
    directory.tensor(name, shape);
    InspectRow row = row_of(directory, name);
    inspect_tensor(directory, row);
    progress.advance(row.bytes);
    result.rows.push_back(std::move(row));
  };
  for (const PlainSpec& spec : table.plain) add_plain(spec.name, spec.shape);
  for (const FusedGroup& group : table.groups) {
    for (const LinearSpec& spec : group.members) add_linear(spec.name, spec.n, spec.k, group.perm_name);
  }
  if (result.info->head == DType::kI8) {
    add_linear(table.head, config.vocab, config.hidden, "");
  } else if (!config.tied_embeddings) {
    add_plain(table.head + ".weight", {config.vocab, config.hidden});
  }
}

// Matrices that a linear layer multiplies, judged by name: every architecture can be looked at.
bool is_linear_weight(const TensorEntry& tensor) {
  return tensor.shape.rank() == 2 && tensor.name.ends_with("_proj.weight");
}

void inspect_standard(const ModelDirectory& directory, bool quiet, Inspection& result) {
  Progress progress("inspect", directory.total_tensor_bytes(), Progress::Unit::kBytes, quiet);
  for (const TensorEntry& tensor : directory.tensors()) {
    InspectRow row = row_of(directory, tensor.name);
    row.linear = is_linear_weight(tensor) || tensor.name.ends_with("_proj.weight_scale");
    inspect_tensor(directory, row);
    if (tensor.name.ends_with(".weight_scale")) {
      row.pattern.reset();
      row.layout.clear();
      const std::string weight = tensor.name.substr(0, tensor.name.size() - std::strlen("_scale"));
      const std::optional<TensorView> codes = directory.find(weight);
      const bool channel = codes && codes->rank() == 2 && tensor.shape.count() == codes->dim(0);
      const bool eight_bits = codes && dtype_size(codes->dtype) == 1;
      if (channel && eight_bits) {
        validate_weight_scales(tensor.dtype, directory.tensor(tensor.name).data, codes->dtype, codes->data,
                               codes->dim(0), codes->dim(1), tensor.name);
      }
    }
    progress.advance(row.bytes);
    result.rows.push_back(std::move(row));
  }
}

double share(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

// "6:8 (2 of 8 zeroed)": kept:group is not how everybody writes it.
std::string pattern_text(const Pattern& pattern) {
  if (pattern.is_dense()) return "dense";
  return fmt::format("{} ({} of {} zeroed)", pattern.to_string(), pattern.zeroed(), pattern.group());
}

}  // namespace

Inspection inspect_directory(const std::filesystem::path& path, bool quiet) {
  const ModelDirectory directory(path);
  const std::string file = (path / "config.json").string();
  Inspection result;
  result.path = path;
  result.info = parse_packed_info(directory.config_text(), file);
  if (result.info) {
    result.kind = "packed";
    inspect_packed(directory, parse_model_config(directory.config_text(), file), quiet, result);
  } else {
    result.kind =
        parse_json(directory.config_text(), file).contains("quantization_config") ? "quantised" : "plain";
    inspect_standard(directory, quiet, result);
  }
  for (const InspectRow& row : result.rows) {
    result.bytes += row.bytes;
    result.dense_bytes += row.dense_bytes;
    if (!row.linear) continue;
    result.linear_bytes += row.bytes;
    result.linear_dense_bytes += row.dense_bytes;
  }
  return result;
}

std::string inspection_to_json(const Inspection& inspection) {
  OrderedJson json = OrderedJson::object();
  json["path"] = printable(inspection.path.string(), 4096);
  json["kind"] = inspection.kind;
  if (inspection.info) {
    const PackedInfo& info = *inspection.info;
    json["slidesparse"] = {{"format_version", info.format_version}, {"pattern", info.pattern.to_string()},
                           {"dtype", dtype_name(info.dtype)},       {"method", info.method},
                           {"head", dtype_word(info.head)},         {"source_sha256", info.source_sha256},
                           {"exceptions", info.exceptions.size()}};
  }
  json["bytes"] = inspection.bytes;
  json["dense_bytes"] = inspection.dense_bytes;
  json["linear_bytes"] = inspection.linear_bytes;
  json["linear_dense_bytes"] = inspection.linear_dense_bytes;
  json["share_of_dense"] = share(inspection.bytes, inspection.dense_bytes);
  json["linear_share_of_dense"] = share(inspection.linear_bytes, inspection.linear_dense_bytes);
  json["tensors"] = OrderedJson::array();
  for (const InspectRow& row : inspection.rows) {
    OrderedJson item = OrderedJson::object();
    item["name"] = printable(row.name, 1024);
    item["shape"] = std::vector<std::int64_t>(row.shape.dims().begin(), row.shape.dims().end());
    item["dtype"] = dtype_name(row.dtype);
    item["linear"] = row.linear;
    item["pattern"] = row.pattern ? OrderedJson(row.pattern->to_string()) : OrderedJson(nullptr);
    item["layout"] = row.layout.empty() ? OrderedJson(nullptr) : OrderedJson(row.layout);
    item["zeros"] = row.zeros;
    item["zeros_share"] = share(row.zeros, row.elements);
    item["bytes"] = row.bytes;
    item["dense_bytes"] = row.dense_bytes;
    json["tensors"].push_back(std::move(item));
  }
  return json.dump(2) + "\n";
}

std::string inspection_to_text(const Inspection& inspection) {
  using Align = TextTable::Align;
  TextTable table({"tensor", "shape", "dtype", "pattern", "layout", "zeros", "bytes", "of dense"},
                  {Align::kLeft, Align::kLeft, Align::kLeft, Align::kLeft, Align::kLeft, Align::kRight,
                   Align::kRight, Align::kRight});
  for (const InspectRow& row : inspection.rows) {
    table.add_row({printable(row.name), row.shape.to_string(), std::string(dtype_name(row.dtype)),
                   row.pattern ? pattern_text(*row.pattern) : "", row.layout,
                   fmt::format("{:.2f} %", 100 * share(row.zeros, row.elements)), std::to_string(row.bytes),
                   fmt::format("{:.4f}", share(row.bytes, row.dense_bytes))});
  }
  std::string text = table.to_string();
  text += fmt::format("{} tensors, {}; linears {} of {} dense ({:.4f})\n", inspection.rows.size(),
                      format_bytes(static_cast<double>(inspection.bytes)),
                      format_bytes(static_cast<double>(inspection.linear_bytes)),
                      format_bytes(static_cast<double>(inspection.linear_dense_bytes)),
                      share(inspection.linear_bytes, inspection.linear_dense_bytes));
  return text;
}

}  // namespace slidesparse
