#include "core/shared_library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

namespace slidesparse {
namespace {

namespace fs = std::filesystem;

// Directories */lib of Python's nvidia packages below `site`, sorted.
void add_nvidia_libs(const fs::path& site, std::vector<std::string>& found) {
  std::error_code ignored;
  std::vector<std::string> here;
  for (const fs::directory_entry& entry : fs::directory_iterator(site / "nvidia", ignored)) {
    if (fs::is_directory(entry.path() / "lib", ignored)) here.push_back((entry.path() / "lib").string());
  }
  std::sort(here.begin(), here.end());
  found.insert(found.end(), here.begin(), here.end());
}

void add_environment(const fs::path& root, std::vector<std::string>& found) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(root / "lib", ignored)) {
    if (!entry.path().filename().string().starts_with("python3")) continue;
    for (const char* packages : {"site-packages", "dist-packages"})
      add_nvidia_libs(entry.path() / packages, found);
  }
}

// The prefix of the first python3 on PATH, links followed only as far as a virtual environment keeps its own
// folder.
std::string python_prefix() {
  const char* path = std::getenv("PATH");
  std::string_view left = path == nullptr ? "" : path;
  while (!left.empty()) {
    const auto colon = left.find(':');
    const fs::path folder(left.substr(0, colon));
    left = colon == std::string_view::npos ? "" : left.substr(colon + 1);
    std::error_code ignored;
    if (!folder.empty() && fs::exists(folder / "python3", ignored)) return folder.parent_path().string();
  }
  return {};
}

std::vector<std::string> nvidia_lib_folders() {
  std::vector<std::string> found;
  if (const char* environment = std::getenv("VIRTUAL_ENV"); environment != nullptr)
    add_environment(environment, found);
  if (const std::string prefix = python_prefix(); !prefix.empty()) add_environment(prefix, found);
  return found;
}

std::string loader_words() {
  const char* words = ::dlerror();
  return words == nullptr ? "no reason given" : words;
}

}  // namespace

SharedLibrary::SharedLibrary(std::string_view option, const std::vector<std::string>& names) {
  const auto open = [&](const std::string& file) {
    handle_ = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ == nullptr) {
      reason_ += (reason_.empty() ? "" : "; ") + loader_words();
      return false;
    }
    path_ = file;
    reason_.clear();
    return true;
  };
  if (!option.empty()) {
    open(std::string(option));
    return;
  }
  for (const std::string& name : names) {
    if (open(name)) return;
  }
  for (const std::string& folder : nvidia_lib_folders()) {
    for (const std::string& name : names) {
      std::error_code ignored;
      const std::string file = (fs::path(folder) / name).string();
      if (fs::exists(file, ignored) && open(file)) return;
    }
  }
}

void* SharedLibrary::symbol(const char* name) const {
  return handle_ == nullptr ? nullptr : ::dlsym(handle_, name);
}

LibraryPaths& library_paths() {
  static LibraryPaths paths;
  return paths;
}

}  // namespace slidesparse
