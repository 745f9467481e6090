#!/usr/bin/env bash
# Builds for H100/H200 and packs the program, the GPU tests and the libraries that they need beside the C library into one
# archive, for a machine that has a card but none of our packages (docs/development.md).
#   tools/gpu_package.sh [archive, default build/gpu-run/slidesparse-gpu.tar.xz]
# There: tar xf ARCHIVE && slidesparse-gpu/run tests | slidesparse-gpu/run slidesparse ...
set -euo pipefail
cd "$(dirname "$0")/.."
build=${SLIDESPARSE_GPU_BUILD:-build/gpu-run}
archive=${1:-$build/slidesparse-gpu.tar.xz}
jobs=$(nproc)

cmake --preset gpu-run -B "$build" >/dev/null
cmake --build "$build" -j "$jobs" --target slidesparse gpu_tests
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
package=$stage/slidesparse-gpu
mkdir -p "$package/bin" "$package/lib"
for program in "$build"/slidesparse "$build"/*cuda*_test; do
  strip -o "$package/bin/$(basename "$program")" "$program"
done
# Not the C library and its parts: they belong to the machine, whose must be as new as this one's.
ldd "$package"/bin/* | awk '$3 ~ /^\// {print $3}' | sort -u | grep -vE '/(libc|libm|libdl|librt|libpthread)\.so' |
  while read -r library; do
    cp -L "$library" "$package/lib/"
    strip --strip-unneeded "$package/lib/$(basename "$library")"
  done
cp tools/gpu_run.sh "$package/run"
tar -C "$stage" -cf - slidesparse-gpu | xz -T0 -3 >"$archive.part"
mv "$archive.part" "$archive"
unpacked=$(du -sm "$package/bin" | cut -f1)
echo "$archive: $(du -m "$archive" | cut -f1) MiB ($unpacked MiB of programs unpacked)"
[ "$unpacked" -le 40 ] || { echo "error: the programs take $unpacked MiB, 40 are allowed" >&2; exit 1; }
