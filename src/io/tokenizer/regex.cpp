#include "io/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <chrono>

#include "core/text.h"
#include "io/tokenizer/unicode.h"

namespace slidesparse::tok {
namespace {

// Backtracking steps from one starting position: ordinary patterns need a few for each character of the
// longest run of one class (spaces, letters); patterns that explode reach this at once.
constexpr std::size_t kStepsFixed = 100'000;
constexpr std::size_t kStepsPerByte = 16;
constexpr std::size_t kStepsMost = 2'000'000'000;
constexpr std::uint32_t kHeapLimitKib = 512 * 1024;
// Bytes of starting positions tried in one call, so that a search that finds nothing comes back to look at
// the clock.
constexpr std::size_t kSearchWindow = 64;
// Time that all matches in one text may take: a hundredth of the usual speed, and then some.
constexpr double kSecondsFixed = 10.0;
constexpr double kSecondsPerByte = 5e-6;

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeMatchContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
struct FreeCompileContext {
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
};

}  // namespace

struct Regex::Compiled {
  std::string pattern;
  std::string place;  // "FILE: model..." for errors while matching
  std::unique_ptr<pcre2_code, FreeCode> code;
};

Regex::Regex(std::string_view pattern, const JsonNode& place)
    : Regex(pattern, translate_pattern(pattern, place), place) {}

Regex Regex::literal(std::string_view text, const JsonNode& place) {
  std::string escaped;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte >= 0x80 || (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') ||
                       (byte >= 'A' && byte <= 'Z');
    escaped += plain ? std::string(1, c) : fmt::format("\\x{{{:02x}}}", byte);
  }
  return Regex(text, escaped, place);
}

Regex::Regex(std::string_view shown, const std::string& translated, const JsonNode& place) {
  const std::unique_ptr<pcre2_compile_context, FreeCompileContext> context(
      pcre2_compile_context_create(nullptr));
  require(context != nullptr, "no memory for a regular expression");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_max_pattern_length(context.get(), 65536);
  pcre2_set_parens_nest_limit(context.get(), 100);
  int error = 0;
  PCRE2_SIZE offset = 0;
  const std::uint32_t options =
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_USE_OFFSET_LIMIT | PCRE2_NEVER_BACKSLASH_C;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                   options, &error, &offset, context.get());
  if (code == nullptr) {
    place.refuse("pattern \"{}\" does not compile: {} at byte {} of \"{}\"", printable(shown),
                 message_of(error), offset, printable(translated));
  }
  auto compiled = std::make_shared<Compiled>();
  compiled->code.reset(code);
  compiled->pattern = shown;
  try {
    place.refuse("x");
  } catch (const Error& located) {
    compiled->place = located.what();
    compiled->place.resize(compiled->place.size() - 1);
  }
  // Without JIT (memory that may not be executable) pcre2_match interprets: the same matches, slower.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  compiled_ = std::move(compiled);
}

void Regex::for_each_match(std::string_view text,
                           const std::function<void(std::size_t, std::size_t)>& found) const {
  using Clock = std::chrono::steady_clock;
  const std::unique_ptr<pcre2_match_data, FreeData> data(
      pcre2_match_data_create_from_pattern(compiled_->code.get(), nullptr));
  const std::unique_ptr<pcre2_match_context, FreeMatchContext> context(pcre2_match_context_create(nullptr));
  require(data != nullptr && context != nullptr, "no memory for a regular expression's match");
  pcre2_set_match_limit(context.get(), static_cast<std::uint32_t>(
                                           std::min(kStepsMost, kStepsFixed + kStepsPerByte * text.size())));
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  const auto exceeded = [&](std::size_t at, const std::string& what) {
    fail_input("{}pattern \"{}\" gives up at byte {} of a text of {} bytes: {}", compiled_->place,
               printable(compiled_->pattern), at, text.size(), what);
  };

  const auto start_time = Clock::now();
  const double seconds_allowed = kSecondsFixed + kSecondsPerByte * static_cast<double>(text.size());
  std::size_t from = 0;
  std::size_t last_end = std::string_view::npos;  // an empty match right behind a match does not count
  bool look = false;                              // at the clock
  for (unsigned calls = 1; from <= text.size(); ++calls) {
    if ((look || calls % 16 == 0) &&
        std::chrono::duration<double>(Clock::now() - start_time).count() > seconds_allowed) {
      exceeded(from, fmt::format("it took more than {:.0f} s", seconds_allowed));
    }
    const std::size_t limit = std::min(text.size(), from + kSearchWindow);
    pcre2_set_offset_limit(context.get(), limit);
    const auto match = [&](std::uint32_t options) {
      return pcre2_match(compiled_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                         PCRE2_NO_UTF_CHECK | options, data.get(), context.get());
    };
    int result = match(0);
    look = result < 0;
    // Long runs can need more stack than JIT code has; the interpreter keeps its state on the heap.
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(PCRE2_NO_JIT);
    if (result == PCRE2_ERROR_NOMATCH) {
      if (limit == text.size()) return;
      from = limit + 1;
      while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xc0) == 0x80) ++from;
      continue;
    }
    if (result < 0) exceeded(from, message_of(result));
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data.get());
    const std::size_t start = bounds[0];
    const std::size_t end = bounds[1];
    if (start > end || start < from) exceeded(from, "a match that ends before it starts");
    if (start == end && start == last_end) {
      if (end >= text.size()) return;
      from = end + utf8_length(text[end]);
      last_end = std::string_view::npos;
      continue;
    }
    from = last_end = end;
    found(start, end);
  }
}

std::string Regex::replace_all(const std::string& text, const std::string& with) const {
  std::string out;
  std::size_t kept = 0;
  for_each_match(text, [&](std::size_t start, std::size_t end) {
    out.append(text, kept, start - kept).append(with);
    kept = end;
  });
  return out.append(text, kept);
}

}  // namespace slidesparse::tok
