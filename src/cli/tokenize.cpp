#include <fmt/core.h>

#include <charconv>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "core/fail.h"
#include "core/text.h"
#include "io/text_file.h"
#include "io/tokenizer/tokenizer.h"

namespace slidesparse {
namespace {

struct TokenizeOptions {
  std::string directory;
  std::string text;
  bool decode = false;
  bool add_special = false;
};

// One id a line; blank lines are passed over.
std::vector<std::int32_t> parse_ids(const std::string& text, const std::string& file, std::int64_t vocab) {
  std::vector<std::int32_t> ids;
  std::int64_t line_number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line(text.data() + begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    begin = end + 1;
    ++line_number;
    if (line.empty()) continue;
    std::int32_t id = 0;
    const auto [rest, status] = std::from_chars(line.data(), line.data() + line.size(), id);
    if (status != std::errc() || rest != line.data() + line.size() || id < 0 || id >= vocab) {
      fail_input("{}, line {}: '{}' is not a token id in [0, {})", file, line_number, printable(line, 40),
                 vocab);
    }
    ids.push_back(id);
  }
  return ids;
}

void run_tokenize(const TokenizeOptions& options) {
  const Tokenizer tokenizer =
      Tokenizer::from_file(std::filesystem::path(options.directory) / "tokenizer.json");
  const std::string text = read_text_input(options.text);
  if (options.decode) {
    const std::string decoded = tokenizer.decode(parse_ids(text, options.text, tokenizer.vocab_size()));
    std::fwrite(decoded.data(), 1, decoded.size(), stdout);
    return;
  }
  std::string out;
  for (const std::int32_t id : tokenizer.encode(text, options.add_special)) out += fmt::format("{}\n", id);
  std::fwrite(out.data(), 1, out.size(), stdout);
}

}  // namespace

void add_tokenize(CLI::App& app, const GlobalOptions&) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command = app.add_subcommand("tokenize", "Text to token ids, one a line, or back");
  command->add_option("DIR", options->directory, "Model directory with tokenizer.json")->required();
  command->add_option("--text", options->text, "File to read, - for standard input")->required();
  command->add_flag("--decode", options->decode, "The file holds ids, one a line: print the text");
  command->add_flag("--add-special-tokens", options->add_special,
                    "Add what the model's template adds around a text");
  command->footer(
      "Example: slidesparse tokenize smollm2 --text README.md | slidesparse tokenize smollm2 --decode --text "
      "-");
  command->callback([options] { run_tokenize(*options); });
}

}  // namespace slidesparse
