#include "convert/source_digest.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <set>

#include "core/fail.h"
#include "core/text.h"
#include "io/digest.h"
#include "io/json.h"

namespace slidesparse {

std::string source_digest(const ModelDirectory& source, const TensorDigests& digests) {
  std::string text;
  for (const TensorEntry& tensor : source.tensors()) {
    const auto digest = digests.find(tensor.name);
    require(digest != digests.end(), "tensor {} was not read", tensor.name);
    text += fmt::format("{} {} {} {}\n", tensor.name, dtype_name(tensor.dtype), tensor.shape.to_string(),
                        digest->second);
  }
  text += fmt::format("config.json {}\n", sha256_hex(source.config_text()));
  return sha256_hex(text);
}

std::string source_identity(const ModelDirectory& source) {
  std::set<std::string> files;
  for (const TensorEntry& tensor : source.tensors()) files.insert(source.file_of(tensor.name));
  for (const std::string& name : source.side_files()) files.insert(name);
  OrderedJson list = OrderedJson::array();
  for (const std::string& name : files) {
    const std::filesystem::path path = source.path() / name;
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) {
      fail(ErrorKind::kIo, "{}: {}", printable(path.string(), 400), std::strerror(errno));
    }
    list.push_back({{"file", printable(name)},
                    {"bytes", status.st_size},
                    {"changed", fmt::format("{}.{:09}", status.st_mtim.tv_sec, status.st_mtim.tv_nsec)}});
  }
  return OrderedJson{{"config_sha256", sha256_hex(source.config_text())}, {"files", list}}.dump();
}

}  // namespace slidesparse
