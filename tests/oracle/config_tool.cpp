// Reads config.json text on stdin and writes what config_with_compressed_tensors() makes of it: `config_tool
// int|float`. Only check_compressed_tensors.py uses it.
#include <iostream>
#include <iterator>
#include <string>

#include "io/compressed_tensors.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::string text{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
  const bool is_float = std::string(argv[1]) == "float";
  try {
    std::cout << slidesparse::config_with_compressed_tensors(
        text, is_float ? slidesparse::DType::kF8E4M3 : slidesparse::DType::kI8, {"lm_head"});
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
