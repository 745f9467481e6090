#include "cli/output.h"

#include <fmt/core.h>

#include <cstdio>

#include "core/cpu.h"
#include "core/parallel.h"
#include "core/version.h"
#include "io/file_writer.h"

namespace slidesparse {

nlohmann::ordered_json describe_run(const std::string& command) {
  return {{"program", "slidesparse"},
          {"version", kVersion},
          {"schema", 1},
          {"command", command},
          {"machine",
           {{"processor", cpu_description()},
            {"isa", isa_name(active_isa())},
            {"amx", has_amx()},
            {"threads", thread_count()},
            {"gpu", nullptr}}}};
}

void write_json(const std::string& path, const nlohmann::ordered_json& json) {
  const std::string text = json.dump(2) + "\n";
  if (path == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);
  } else {
    write_file_atomically(path, text);
  }
}

std::string describe_pattern(const std::string& pattern) {
  if (pattern == "dense" || pattern == "mixed") return pattern;
  const Pattern parsed = Pattern::parse(pattern);
  return fmt::format("{} (keeps {}, zeroes {})", pattern, parsed.kept(), parsed.zeroed());
}

}  // namespace slidesparse
