#!/usr/bin/env bash
# Runs what tools/gpu_package.sh packed.
#   run tests [--sanitize memcheck|racecheck|initcheck|synccheck] [--guard] [--filter GTEST_FILTER] [--only PROGRAM]
#                        every GPU test program; the last line is "N passed, N failed, N skipped"
#                        --guard: with unmapped pages behind all device memory (core/cuda/guarded_memory.h)
#   run slidesparse ...  the program
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"

if [ "${1:-}" != tests ]; then
  [ "${1:-}" = slidesparse ] || { sed -n '2,7s/^# //p' "$0" >&2; exit 2; }
  shift
  exec "$here/bin/slidesparse" "$@"
fi
shift
sanitize='' filter='*' only='*'
while [ $# -gt 0 ]; do
  case $1 in
    --guard) export SLIDESPARSE_GUARD_PAGES=1; shift; continue ;;
    --sanitize) sanitize=$2 ;;
    --filter) filter=$2 ;;
    --only) only=$2 ;;
    *) echo "error: $1: not an option of tests" >&2; exit 2 ;;
  esac
  shift 2
done
passed=0 failed=0 skipped=0
for program in "$here"/bin/*cuda*_test; do
  # shellcheck disable=SC2053
  [[ $(basename "$program") == $only ]] || continue
  name=$(basename "$program")
  log=$(mktemp)
  command=("$program" --gtest_filter="$filter" --gtest_brief=1)
  [ -z "$sanitize" ] || command=(compute-sanitizer --tool "$sanitize" --report-api-errors no --error-exitcode 9 "${command[@]}")
  start=$SECONDS
  "${command[@]}" >"$log" 2>&1
  status=$?
  ok=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$log" | tail -1)
  bad=$(sed -n 's/^ *\([0-9]*\) FAILED TEST.*/\1/p' "$log" | tail -1)
  none=$(sed -n 's/^\[  SKIPPED \] \([0-9]*\) test.*/\1/p' "$log" | tail -1)
  # A crash, or a sanitizer's finding, is a failure even when no test says so.
  if [ "$status" -ne 0 ] && [ -z "$bad" ]; then bad=1; fi
  passed=$((passed + ${ok:-0})) failed=$((failed + ${bad:-0})) skipped=$((skipped + ${none:-0}))
  echo "== $name${sanitize:+ under $sanitize}: ${ok:-0} passed, ${bad:-0} failed, ${none:-0} skipped, exit $status, $((SECONDS - start)) s"
  if [ "$status" -ne 0 ]; then grep -vE '^Running main|^$' "$log" | tail -n "${SLIDESPARSE_LOG_LINES:-60}"; fi
  rm -f "$log"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
