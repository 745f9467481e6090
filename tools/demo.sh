#!/usr/bin/env bash
# The main job, end to end: installs what is missing, builds, gets a real model (SmolLM2-135M-Instruct, Apache-2.0), converts it to
# INT8 and FP8 at dense, 2:4, 4:6, 6:8 and 8:10 by SparseGPT (calibrated on the Debian Policy Manual), and to FP8 at 6:8 and 8:10 in the split
# layout, measures quality, bytes and speed, prints one table, and lets the 6:8 model continue a sentence.
# Safe to repeat: the build and finished conversions are reused, an interrupted conversion goes on, measurements are made anew.
# demo.sh [--hellaswag FILE] [--max-tasks N] [--text FILE]
set -euo pipefail
cd "$(dirname "$0")/.."

hellaswag=() text=""
while [ $# -gt 0 ]; do
  case "$1" in
    --hellaswag) hellaswag+=(--hellaswag "$(realpath "$2")"); shift 2 ;;
    --max-tasks) hellaswag+=(--max-tasks "$2"); shift 2 ;;
    --text) text=$(realpath "$2"); shift 2 ;;
    *) echo "usage: $0 [--hellaswag FILE] [--max-tasks N] [--text FILE]" >&2; exit 2 ;;
  esac
done

tools/setup.sh
cmake --preset release >/dev/null
cmake --build --preset release --target slidesparse -j "$(nproc)"
program=build/release/slidesparse
demo=build/demo
mkdir -p "$demo"
tools/fetch_smollm2.sh "$demo/smollm2"

if [ -z "$text" ]; then
  # The Debian FAQ (package debian-faq; copyright Software in the Public Interest, copying and modified copies permitted under the same terms). Unpacked
  # from the package itself, because slim Debian images leave /usr/share/doc out. The table of contents is skipped.
  text=$demo/debian-faq.txt
  if [ ! -s "$text" ]; then
    (cd "$demo" && rm -f debian-faq_*.deb && apt-get -o APT::Sandbox::User=root download -q debian-faq >/dev/null && dpkg-deb -x debian-faq_*.deb faq)
    zcat "$demo"/faq/usr/share/doc/debian/FAQ/debian-faq.en.txt.gz | tail -n +300 >"$text.new"
    mv "$text.new" "$text"
  fi
fi

# Another text than the one that is measured: the Debian Policy Manual (package debian-policy, GPL-2 or later).
calibration=$demo/debian-policy.txt
if [ ! -s "$calibration" ]; then
  (cd "$demo" && rm -f debian-policy_*.deb && apt-get -o APT::Sandbox::User=root download -q debian-policy >/dev/null && dpkg-deb -x debian-policy_*.deb policy)
  zcat "$demo"/policy/usr/share/doc/debian-policy/policy.txt.gz >"$calibration.new"
  mv "$calibration.new" "$calibration"
fi

# What is learnt about the inputs of the linears is collected once, along 6:8, and serves all patterns.
directories=()
make() { # make NAME DTYPE PATTERN [options]
  [ -d "$demo/$1" ] || "$program" convert "$demo/smollm2" "$demo/$1" --dtype "$2" --pattern "$3" "${@:4}" --quiet
}
add() { make "$@"; directories+=("$demo/$1"); }
sparsegpt=(--method sparsegpt --calibration "$calibration" --samples 32 --sample-length 512 --statistics "$demo/statistics")
echo "converting: calibration runs the model on 16,384 tokens first"
make int8-6of8 int8 6:8 "${sparsegpt[@]}"
for dtype in int8 fp8; do
  add "$dtype-dense" "$dtype" dense
  for pattern in 2:4 4:6 6:8 8:10; do add "$dtype-${pattern/:/of}" "$dtype" "$pattern" "${sparsegpt[@]}"; done
done
for pattern in 6:8 8:10; do add "fp8-${pattern/:/of}-split" fp8 "$pattern/split" "${sparsegpt[@]}"; done

echo "measuring $(basename "$text"): 4 windows of 1024 tokens, then prefill of 512 tokens and decode of one sequence"
"$program" eval "$demo/smollm2" "${directories[@]}" --text "$text" --window 1024 --max-windows 4 "${hellaswag[@]}" \
  --json "$demo/eval.json" >"$demo/eval.txt"
for directory in "$demo/smollm2" "${directories[@]}"; do
  "$program" --quiet bench prefill "$directory" --m 512 --json "$directory.prefill.json" >/dev/null
  "$program" --quiet bench decode "$directory" --m 1 --json "$directory.decode.json" >/dev/null
done
python3 tools/demo_table.py "$demo/eval.json"

echo
echo "$ slidesparse generate $demo/int8-6of8 \"The three primary colours are\""
"$program" generate "$demo/int8-6of8" "The three primary colours are" --max-tokens 40
