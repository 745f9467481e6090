#include "io/tokenizer/normalizer.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>

#include <algorithm>

namespace slidesparse::tok {
namespace {

const icu::Normalizer2* unicode_form(std::string_view type) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* form = nullptr;
  if (type == "NFC") form = icu::Normalizer2::getNFCInstance(status);
  if (type == "NFD") form = icu::Normalizer2::getNFDInstance(status);
  if (type == "NFKC") form = icu::Normalizer2::getNFKCInstance(status);
  if (type == "NFKD") form = icu::Normalizer2::getNFKDInstance(status);
  require(U_SUCCESS(status), "ICU has no data for {}: {}", type, u_errorName(status));
  return form;
}

std::string normalize(const icu::Normalizer2& form, const std::string& text) {
  // ICU counts in 32 bits; pieces are cut in front of ASCII characters, which never combine with what
  // precedes.
  constexpr std::size_t kPiece = std::size_t{1} << 28;
  std::string out;
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = std::min(text.size(), begin + kPiece);
    while (end < text.size() && static_cast<unsigned char>(text[end]) >= 0x80) ++end;
    if (end - begin > 2 * kPiece)
      fail_input("a run of {} bytes without an ASCII character cannot be normalised", end - begin);
    UErrorCode status = U_ZERO_ERROR;
    icu::StringByteSink<std::string> sink(&out);
    form.normalizeUTF8(0, icu::StringPiece(text.data() + begin, static_cast<std::int32_t>(end - begin)), sink,
                       nullptr, status);
    require(U_SUCCESS(status), "Unicode normalisation failed: {}", u_errorName(status));
    begin = end;
  }
  return out;
}

}  // namespace

Regex read_pattern(const JsonNode& node) {
  if (const auto text = node.find("String")) return Regex::literal(text->string(), *text);
  if (const auto regex = node.find("Regex")) return Regex(regex->string(), *regex);
  node.refuse("expected {{\"String\": ...}} or {{\"Regex\": ...}}");
}

void Normalizer::add(const JsonNode& node) {
  const std::string& type = node.type();
  if (type == "Sequence") {
    for (const JsonNode& part : node.at("normalizers").elements()) add(part);
  } else if (type == "Prepend") {
    steps_.push_back({Step::kPrepend, nullptr, node.at("prepend").string(), nullptr});
  } else if (type == "Replace") {
    auto what = std::make_shared<Regex>(read_pattern(node.at("pattern")));
    steps_.push_back({Step::kReplace, nullptr, node.at("content").string(), std::move(what)});
  } else if (const icu::Normalizer2* form = unicode_form(type)) {
    steps_.push_back({Step::kUnicode, form, "", nullptr});
  } else {
    node.refuse_type("normalizer", "NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence");
  }
}

std::string Normalizer::apply(std::string text) const {
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Step::kUnicode: {
        const bool ascii =
            std::all_of(text.begin(), text.end(), [](char c) { return static_cast<signed char>(c) >= 0; });
        if (!ascii) text = normalize(*static_cast<const icu::Normalizer2*>(step.form), text);
        break;
      }
      case Step::kPrepend:
        if (!text.empty()) text.insert(0, step.content);
        break;
      case Step::kReplace:
        text = step.what->replace_all(text, step.content);
        break;
    }
  }
  return text;
}

}  // namespace slidesparse::tok
