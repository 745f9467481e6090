#!/usr/bin/env bash
# clang-format (nothing may differ) and clang-tidy (nothing may be found) over the project's C++ files.
# lint.sh [FILE...]: only these files.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -gt 0 ]; then files=("$@"); else mapfile -t files < <(git ls-files '*.cpp' '*.h' '*.cu' '*.cuh'); fi
clang-format-14 --dry-run -Werror "${files[@]}"
[ -f build/release/compile_commands.json ] || cmake --preset release >/dev/null
sources=()
for file in "${files[@]}"; do
  case "$file" in *.cpp) grep -q "/$file\"" build/release/compile_commands.json && sources+=("$file") ;; esac
done
[ ${#sources[@]} -eq 0 ] || printf '%s\n' "${sources[@]}" | xargs -P "$(nproc)" -n 4 clang-tidy-14 -p build/release --quiet
echo "lint: ${#files[@]} files formatted, ${#sources[@]} checked"
