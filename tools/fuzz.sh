#!/usr/bin/env bash
# Builds the libFuzzer targets (AddressSanitizer, UndefinedBehaviorSanitizer) and runs each of them.
#   tools/fuzz.sh [seconds per target, default 20] [jobs at a time, default 1] [target ...]
# Prints runs and runs/s of every target; the last line is the total. Exit code 1 when a target crashed, leaked, hung or used too
# much memory: the input that did it is in build/fuzz/artifacts. SLIDESPARSE_FUZZ_BUILD names another build folder.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-20}
jobs=${2:-1}
shift $(($# < 2 ? $# : 2))
build=${SLIDESPARSE_FUZZ_BUILD:-build/fuzz}

mkdir -p "$build"
cmake --preset fuzz -B "$build" >"$build/configure.log" 2>&1 || { cat "$build/configure.log"; exit 1; }
cmake --build "$build" -j 2 --target fuzz_targets >"$build/build.log" 2>&1 || { tail -40 "$build/build.log"; exit 1; }
if [ $# -eq 0 ]; then
  for program in "$build"/fuzz_*; do
    [ -x "$program" ] && [ -f "$program" ] && set -- "$@" "$(basename "$program" | sed s/^fuzz_//)"
  done
fi
artifacts=$build/artifacts
mkdir -p "$artifacts"

run_one() {
  local name=$1 corpus=$build/corpus/$1 log=$build/$1.log
  mkdir -p "$corpus"
  # New inputs go to the build folder; the committed seeds are only read.
  if OMP_NUM_THREADS=1 "$build/fuzz_$name" "$corpus" "tests/fuzz/corpus/$name" -max_total_time="$seconds" -max_len=65536 \
      -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 -artifact_prefix="$artifacts/$name-" >"$log" 2>&1; then
    local runs
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    echo "fuzz $name: $runs runs, $((runs / (seconds > 0 ? seconds : 1))) runs/s, ok"
  else
    echo "fuzz $name: FAILED (see $log)"
    grep -E 'ERROR|SUMMARY|terminate|what\(\)' "$log" | head -5
    return 1
  fi
}
export -f run_one
export build seconds artifacts

results=$build/results.txt
status=0
printf '%s\n' "$@" | xargs -P "$jobs" -I{} bash -c 'run_one {}' | tee "$results" || status=1
grep -q FAILED "$results" && status=1
echo "total: $(awk -F'[ :]+' '/ runs, /{n += $3} END {print n + 0}' "$results") runs, $# targets, $seconds s each, $(grep -c FAILED "$results" || true) failed"
exit $status
