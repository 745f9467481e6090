#include "io/tokenizer/pre_tokenizer.h"

#include <array>
#include <utility>

#include "core/text.h"
#include "io/tokenizer/normalizer.h"
#include "io/tokenizer/unicode.h"

namespace slidesparse::tok {
namespace {

// GPT-2's words; ByteLevel with "use_regex" cuts with it.
constexpr const char* kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

void PreTokenizer::add(const JsonNode& node) {
  const std::string& type = node.type();
  if (byte_level_)
    node.refuse("pre_tokenizer \"{}\" behind ByteLevel is not supported: ByteLevel must be last",
                printable(type, 60));
  if (type == "Sequence") {
    for (const JsonNode& part : node.at("pretokenizers").elements()) add(part);
  } else if (type == "ByteLevel") {
    add_byte_level(node);
  } else if (type == "Digits") {
    const bool individual = node.at("individual_digits").boolean();
    steps_.push_back(
        {Step::kDigits, individual ? Behavior::kIsolated : Behavior::kContiguous, false, nullptr});
  } else if (type == "Split") {
    constexpr std::array<std::pair<const char*, Behavior>, 5> kBehaviors{{
        {"Isolated", Behavior::kIsolated},
        {"Removed", Behavior::kRemoved},
        {"MergedWithPrevious", Behavior::kMergedWithPrevious},
        {"MergedWithNext", Behavior::kMergedWithNext},
        {"Contiguous", Behavior::kContiguous},
    }};
    const JsonNode behavior = node.at("behavior");
    for (const auto& [name, value] : kBehaviors) {
      if (behavior.string() != name) continue;
      auto regex = std::make_shared<Regex>(read_pattern(node.at("pattern")));
      steps_.push_back({Step::kSplit, value, node.boolean_or("invert", false), std::move(regex)});
      return;
    }
    behavior.refuse(
        "\"{}\" is not a behaviour; supported are Isolated, Removed, MergedWithPrevious, MergedWithNext, "
        "Contiguous",
        printable(behavior.string(), 60));
  } else {
    node.refuse_type("pre_tokenizer", "ByteLevel, Digits, Split, Sequence");
  }
}

void PreTokenizer::add_byte_level(const JsonNode& node) {
  if (node.at("add_prefix_space").boolean())
    steps_.push_back({Step::kPrefixSpace, Behavior::kIsolated, false, nullptr});
  if (node.boolean_or("use_regex", true)) {
    steps_.push_back(
        {Step::kSplit, Behavior::kIsolated, false, std::make_shared<Regex>(kByteLevelPattern, node)});
  }
  byte_level_ = true;
}

void PreTokenizer::cut(const Step& step, std::string_view text, const Piece& piece) {
  std::size_t done = 0;
  const auto separator = [&](std::size_t start, std::size_t end) {
    if (done < start) piece(done, start, step.invert);
    piece(start, end, !step.invert);
    done = end;
  };
  if (step.kind == Step::kDigits) {
    for (std::size_t i = 0; i < text.size();) {
      const std::size_t end = i + utf8_length(text[i]);
      if (is_numeric(code_point_at(text, i))) separator(i, end);
      i = end;
    }
  } else {
    step.regex->for_each_match(text, separator);
  }
  if (done < text.size()) piece(done, text.size(), step.invert);
}

void PreTokenizer::run(std::size_t index, std::string_view text, const Sink& sink) const {
  if (text.empty()) return;
  if (index == steps_.size()) return sink(text);
  const Step& step = steps_[index];
  if (step.kind == Step::kPrefixSpace) {
    if (text.front() == ' ') return run(index + 1, text, sink);
    return run(index + 1, " " + std::string(text), sink);
  }

  const auto emit = [&](std::size_t start, std::size_t end) {
    run(index + 1, text.substr(start, end - start), sink);
  };
  if (step.behavior == Behavior::kIsolated || step.behavior == Behavior::kRemoved) {
    const bool keep = step.behavior == Behavior::kIsolated;
    cut(step, text, [&](std::size_t start, std::size_t end, bool is_separator) {
      if (keep || !is_separator) emit(start, end);
    });
    return;
  }
  // The others join a piece to the one before it, depending on what the two are.
  bool open = false;
  bool previous = false;
  std::size_t begin = 0;
  std::size_t last = 0;
  cut(step, text, [&](std::size_t start, std::size_t end, bool is_separator) {
    const bool join = open && (step.behavior == Behavior::kContiguous           ? is_separator == previous
                               : step.behavior == Behavior::kMergedWithPrevious ? is_separator && !previous
                                                                                : !is_separator && previous);
    if (!join) {
      if (open) emit(begin, last);
      begin = start;
      open = true;
    }
    last = end;
    previous = is_separator;
  });
  if (open) emit(begin, last);
}

}  // namespace slidesparse::tok
