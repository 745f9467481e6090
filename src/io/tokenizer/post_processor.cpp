#include "io/tokenizer/post_processor.h"

#include <algorithm>

#include "core/text.h"

namespace slidesparse::tok {

void PostProcessor::add(const JsonNode& node, const Vocabulary& vocabulary) {
  const std::string& type = node.type();
  if (type == "Sequence") {
    for (const JsonNode& part : node.at("processors").elements()) add(part, vocabulary);
    return;
  }
  if (type == "ByteLevel") return;  // moves offsets, which are not kept here
  if (type != "TemplateProcessing")
    node.refuse_type("post_processor", "ByteLevel, TemplateProcessing, Sequence");

  // The `tokenizers` library takes what a first template gave for several texts: nothing to imitate.
  if (!template_.empty()) node.refuse("a second TemplateProcessing is not supported");
  std::vector<Part> parts;
  for (const JsonNode& element : node.at("single").elements()) {
    if (const auto sequence = element.find("Sequence")) {
      const JsonNode id = sequence->at("id");
      if (id.string() != "A")
        id.refuse("\"{}\" in the template of a single text; only A can be", printable(id.string(), 40));
      parts.push_back({true, {}});
      continue;
    }
    const JsonNode name = element.at("SpecialToken").at("id");
    const JsonNode known = node.at("special_tokens");
    known.expect_object();
    if (!known.value().contains(name.string())) {
      name.refuse("\"{}\" is not among the template's special_tokens", printable(name.string(), 60));
    }
    Part part;
    for (const JsonNode& id : known.at(name.string().c_str()).at("ids").elements()) {
      const std::int64_t value = id.integer(std::max<std::int64_t>(vocabulary.size() - 1, 0));
      part.ids.push_back(static_cast<std::int32_t>(value));
    }
    parts.push_back(std::move(part));
  }
  const auto texts = std::count_if(parts.begin(), parts.end(), [](const Part& part) { return part.text; });
  if (texts != 1) node.refuse("the template of a single text names the text {} times, expected once", texts);
  template_ = std::move(parts);
}

std::vector<std::int32_t> PostProcessor::apply(std::vector<std::int32_t> ids) const {
  if (template_.empty()) return ids;
  std::vector<std::int32_t> result;
  for (const Part& part : template_) {
    const auto& source = part.text ? ids : part.ids;
    result.insert(result.end(), source.begin(), source.end());
  }
  return result;
}

}  // namespace slidesparse::tok
