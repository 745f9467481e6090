#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace slidesparse {

// A library that may be missing, opened at run time and never closed.
class SharedLibrary {
 public:
  // Tries, in order: `option` when it is not empty (a file, and then nothing else), `names` as the loader
  // finds them, `names` in every lib folder of Python's nvidia packages (site-packages of the python3 on PATH
  // and of VIRTUAL_ENV: nvidia/*/lib). Never throws: see found().
  SharedLibrary(std::string_view option, const std::vector<std::string>& names);

  bool found() const { return handle_ != nullptr; }
  const std::string& path() const { return path_; }  // of the file that was opened
  const std::string& reason() const {
    return reason_;
  }  // why nothing was found: every place and the loader's words

  void* handle() const { return handle_; }  // the loader's; null when nothing was found
  // The function named `name`, or null.
  void* symbol(const char* name) const;

  // Sets `function` to the one named `name`; when there is none and `reason` is still empty, it says so.
  template <typename Function>
  void resolve(const char* name, Function& function, std::string& reason) const {
    function = reinterpret_cast<Function>(symbol(name));
    if (function == nullptr && reason.empty()) reason = path_ + " has no " + name;
  }

 private:
  void* handle_ = nullptr;
  std::string path_;
  std::string reason_;
};

// Where --cublaslt, --cusparselt and --cudnn point; set by the command line before the first use.
struct LibraryPaths {
  std::string cublaslt;
  std::string cusparselt;
  std::string cudnn;
};
LibraryPaths& library_paths();

}  // namespace slidesparse
