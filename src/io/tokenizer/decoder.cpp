#include "io/tokenizer/decoder.h"

#include <limits>
#include <optional>

#include "io/tokenizer/normalizer.h"
#include "io/tokenizer/unicode.h"

namespace slidesparse::tok {
namespace {

// The byte of "<0x41>", or nothing.
std::optional<char> byte_token(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return std::nullopt;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return std::nullopt;
    value = 16 * value + digit;
  }
  return static_cast<char>(static_cast<unsigned char>(value));
}

std::string bytes_or_text(std::string_view token) {
  return byte_level_bytes(token).value_or(std::string(token));
}

std::string joined(const std::vector<std::string>& tokens, std::string_view between) {
  std::string out;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) out += between;
    out += tokens[i];
  }
  return out;
}

// Runs of byte tokens become their text when it is UTF-8, otherwise one U+FFFD a byte.
std::vector<std::string> fuse_bytes(const std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string run;
  const auto flush = [&] {
    if (run.empty()) return;
    if (find_invalid_utf8(run)) {
      out.insert(out.end(), run.size(), "\xef\xbf\xbd");
    } else {
      out.push_back(run);
    }
    run.clear();
  };
  for (const std::string& token : tokens) {
    if (const auto byte = byte_token(token)) {
      run += *byte;
    } else {
      flush();
      out.push_back(token);
    }
  }
  flush();
  return out;
}

std::string strip(const std::string& text, const std::string& what, std::int64_t start, std::int64_t stop) {
  std::size_t begin = 0;
  std::size_t end = text.size();
  for (; start > 0 && end - begin >= what.size() && text.compare(begin, what.size(), what) == 0; --start)
    begin += what.size();
  for (; stop > 0 && end - begin >= what.size() && text.compare(end - what.size(), what.size(), what) == 0;
       --stop) {
    end -= what.size();
  }
  return text.substr(begin, end - begin);
}

}  // namespace

void Decoder::add(const JsonNode& node) {
  present_ = true;
  const std::string& type = node.type();
  if (type == "Sequence") {
    for (const JsonNode& part : node.at("decoders").elements()) add(part);
  } else if (type == "ByteLevel") {
    steps_.push_back({Step::kByteLevel});
  } else if (type == "ByteFallback") {
    steps_.push_back({Step::kByteFallback});
  } else if (type == "Fuse") {
    steps_.push_back({Step::kFuse});
  } else if (type == "Replace") {
    steps_.push_back({Step::kReplace, node.at("content").string(),
                      std::make_shared<Regex>(read_pattern(node.at("pattern")))});
  } else if (type == "Strip") {
    constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
    const JsonNode content = node.at("content");
    if (content.string().empty() || utf8_length(content.string()[0]) != content.string().size()) {
      content.refuse("expected one character");
    }
    steps_.push_back({Step::kStrip,
                      content.string(),
                      {},
                      node.at("start").integer(kMost),
                      node.at("stop").integer(kMost)});
  } else {
    node.refuse_type("decoder", "ByteLevel, ByteFallback, Fuse, Replace, Strip, Sequence");
  }
}

std::string Decoder::decode(std::vector<std::string> tokens) const {
  if (!present_) return joined(tokens, " ");
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Step::kByteLevel: {
        std::string bytes;
        for (const std::string& token : tokens) bytes += bytes_or_text(token);
        std::string text;
        append_lossy_utf8(bytes, true, text);
        tokens = {text};
        break;
      }
      case Step::kByteFallback:
        tokens = fuse_bytes(tokens);
        break;
      case Step::kFuse:
        tokens = {joined(tokens, "")};
        break;
      case Step::kReplace:
        for (std::string& token : tokens) token = step.what->replace_all(token, step.content);
        break;
      case Step::kStrip:
        for (std::string& token : tokens) token = strip(token, step.content, step.start, step.stop);
        break;
    }
  }
  return joined(tokens, "");
}

std::string Decoder::token_bytes(std::string_view token) const {
  std::string bytes(token);
  for (const Step& step : steps_) {
    // Behind a step that gave raw bytes the text steps have nothing to work on.
    if (step.kind == Step::kByteLevel) return bytes_or_text(bytes);
    if (step.kind == Step::kByteFallback) {
      if (const auto byte = byte_token(bytes)) return std::string(1, *byte);
    }
    if (step.kind == Step::kReplace) bytes = step.what->replace_all(bytes, step.content);
  }
  return bytes;
}

}  // namespace slidesparse::tok
