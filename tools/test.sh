#!/usr/bin/env bash
# Sets up, builds and runs every test: the release build's, then each fuzz target for a short time. Safe to repeat.
# The last line is "N passed, N failed, N skipped".
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup.sh

jobs=$(nproc)
cmake --preset release >/dev/null
cmake --build --preset release -j "$jobs"

report=build/release/tests.xml
rm -f "$report"
status=0
# Only failures, skips and the summary are shown. Passive: test programs that run side by side must not spin on each other's cores.
OMP_WAIT_POLICY=passive ctest --preset release -j "$jobs" --output-junit "$PWD/$report" | { grep -vE '^ *Start |   Passed  ' || true; } || status=$?
# ctest writes the totals as attributes of the first element.
number() { tr '\n' ' ' <"$report" | sed 's/<testcase.*//' | sed -n "s/.*[[:space:]]$1=\"\([0-9]*\)\".*/\1/p"; }
total=$(number tests)
failed=$(number failures)
skipped=$(($(number disabled) + $(number skipped)))
passed=$((total - failed - skipped))

# Each fuzz target counts as one test.
fuzz_log=build/fuzz.log
if tools/fuzz.sh 5 "$jobs" 2>&1 | tee "$fuzz_log"; then :; else status=1; fi
fuzz_passed=$(grep -c '^fuzz .* ok' "$fuzz_log" || true)
fuzz_failed=$(grep -c '^fuzz .* FAILED' "$fuzz_log" || true)
passed=$((passed + fuzz_passed))
failed=$((failed + fuzz_failed))
[ "$fuzz_passed" -gt 0 ] || { echo "error: no fuzz target ran" >&2; status=1; }

echo "$passed passed, $failed failed, $skipped skipped"
[ "$passed" -gt 0 ] && [ "$failed" -eq 0 ] && [ "$status" -eq 0 ]
