#!/usr/bin/env bash
# The checks and measurements of docs/measurements.md that need a card, a step at a time, each with its wall time.
#   tools/gpu_measure.sh PACKAGE STEP...
# PACKAGE: the folder slidesparse-gpu that tools/gpu_package.sh's archive unpacks to. Steps:
#   tests     every GPU test                       sanitize  compute-sanitizer over the small shapes
#   quant     bench quant                          dense     dense products beside PyTorch's, same data, same card
#   sparse    cusparselt beside the bare library   own       bench gemm of a packed directory, each --weights
#   verify    one model tuned, 72 problems checked against every candidate
#   tune      four models tuned                    choice    what the cache chooses, measured again (after tune)
#   models    tests of whole models, then Qwen2.5-7B tuned, prefill and decode
#   limited   Qwen2.5-14B and 7B in 22.4 GiB       speed     attention and sampling alone
#   native    our Hopper kernels on split weights: layers, then whole models
#   limited_decode  of limited, what its smallest weights are for
#   shares    where the time of a step goes (ncu)
#   sweep     the mission's matrix, resumed from $SLIDESPARSE_MEASURE_OUT/results.db, and its report
#   quality   a model pruned in 28 ways, FP8 and INT8: perplexity of a whole text and HellaSwag; goes on where it was stopped
#   general   our own kernels on slid (general) masks beside split ones: the speeds to the perplexities
# SLIDESPARSE_MEASURE_OUT (default build/gpu-measure) takes JSON files and the tuning cache; SLIDESPARSE_MEASURE_M is tune's list of M,
# SLIDESPARSE_MEASURE_PLAN (--native --no-convert) and SLIDESPARSE_MEASURE_DEADLINE (9m) are sweep's options of `plan mission` and its time.
# quality takes a Hugging Face directory, a calibration text, a test text and HellaSwag tasks from SLIDESPARSE_MEASURE_MODEL, _CALIBRATION, _TEXT
# and _HELLASWAG, and stops after SLIDESPARSE_MEASURE_SECONDS (3600).
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '2,22s/^# //p' "$0" >&2; exit 2; }
here=$1
run=$here/run
[ -x "$run" ] || { echo "error: $run: not there; unpack the archive of tools/gpu_package.sh first" >&2; exit 2; }
shift
out=${SLIDESPARSE_MEASURE_OUT:-build/gpu-measure}
mkdir -p "$out"
models='llama3.2-1b llama3.2-3b qwen2.5-7b qwen2.5-14b'
patterns=dense,2:4,4:6,6:8,8:10
cache=$out/tuning.json
ms=${SLIDESPARSE_MEASURE_M:-16,32,64,128,256,512,1024,2048,4096,8192,16384,65536}
slidesparse() { echo "\$ slidesparse $*"; "$run" slidesparse "$@"; }
python() { echo "\$ python3 $*"; python3 "$@"; }

step_tests() { "$run" tests; }
step_sanitize() {
  local tool
  for tool in memcheck racecheck initcheck; do
    "$run" tests --sanitize "$tool" --only 'kernels_cuda_test' \
      --filter '-*Large*:*OfEveryGate*:*EveryValue*:*EveryExponent*:*EveryMask*'
  done
  "$run" tests --sanitize memcheck --only 'gemm_cuda_test' \
    --filter 'TypesAndPatterns/CusparseLt.*:*CublasLt.*:-*Large*:*HostTime*:*Candidates*:*EveryOffered*'
}
step_quant() { slidesparse bench quant --k 3584,5120,18944 --m 1,64,4096,16384 --patterns 6:8 --dtype fp8; }
step_dense() {
  python tests/oracle/torch_gemm.py --m 64,256,2048,4096,16384 --seconds 0.2
  python tests/oracle/torch_gemm.py --m 64,256,2048,4096,16384 --seconds 0.4 --only 'row-wise fast'
  slidesparse --quiet bench gemm --model qwen2.5-7b --dtype fp8 --patterns dense --m 64,256,2048,4096,16384 \
    --backend cutlass --product-only --min-seconds 0.4 | grep -E 'sum|layer'
  slidesparse --quiet bench gemm --model qwen2.5-7b --dtype fp8 --patterns dense --m 64,256,2048,4096,16384 \
    --backend cublaslt --product-only --min-seconds 0.4 | grep -E 'sum|layer'
}
step_sparse() {
  python tests/oracle/torch_sparse_gemm.py --m 64,2048,16384
  slidesparse --quiet bench gemm --model qwen2.5-7b --dtype fp8,int8 --patterns 2:4,6:8 --m 64,2048,16384 \
    --backend all --product-only --min-seconds 0.2 | grep -E 'sum|layer'
}
step_own() {
  local weights model
  model=$(mktemp -d)
  slidesparse --quiet random-model llama3.2-1b "$model/dense" --layers 2
  slidesparse --quiet convert "$model/dense" "$model/packed" --pattern 6:8 --dtype fp8
  for weights in smallest balanced fastest; do
    slidesparse --quiet bench gemm "$model/packed" --layer 1 --m 16,1024 --min-seconds 0.1 --weights "$weights"
  done
  rm -rf "$model"
}
step_verify() {
  slidesparse --quiet tune --model qwen2.5-7b --dtype fp8,int8 --patterns $patterns --cache "$out/verify.json" --verify 72 \
    --m 16,32,64,128,256,512,1024,2048,4096,8192,16384
}
step_tune() {
  local model
  for model in $models; do
    slidesparse --quiet tune --model "$model" --dtype fp8,int8 --patterns $patterns --cache "$cache" \
      --m "$ms" >"$out/tune-$model.txt" || cat "$out/tune-$model.txt"
    tail -n 2 "$out/tune-$model.txt"
  done
}
step_choice() {
  local model
  for model in $models; do
    slidesparse --quiet bench gemm --model "$model" --dtype fp8,int8 --patterns dense,2:4,6:8 --m 64,333,2048,16384 \
      --cache "$cache" --backend all --min-seconds 0.04 --json "$out/choice-$model.json" | grep -E 'sum|layer|card'
  done
}

step_speed() { LD_LIBRARY_PATH="$here/lib" "$here/bin/kernels_cuda_test" --gtest_filter='*Speed*' --gtest_brief=1; }
# The largest use that the driver reports while a command runs, MiB.
peak_of() {
  nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 200 >"$out/used.txt" &
  local watcher=$!
  "$@"
  kill "$watcher"
  echo "largest use that the driver reported: $(sort -n "$out/used.txt" | tail -n 1) MiB"
}
step_limited() {
  local options=(--patterns $patterns --memory-limit 22.4GiB --cache "$cache" --model qwen2.5-14b) dtype
  for dtype in fp8 int8; do
    peak_of slidesparse --quiet bench prefill "${options[@]}" --dtype $dtype --m 512,8192,65536 --runs 2 \
      --json "$out/limited-prefill-$dtype.json" | grep -v '^ran'
    peak_of slidesparse --quiet bench decode "${options[@]}" --dtype $dtype --m 64,128,512 --steps 256 --runs 1 \
      --json "$out/limited-decode-$dtype.json" | grep -v '^ran'
    peak_of slidesparse --quiet bench decode "${options[@]}" --dtype $dtype --m 256 --steps 256 --runs 1 --kv-cache-dtype fp8 \
      --json "$out/limited-decode-kv8-$dtype.json" | grep -v '^ran'
  done
  peak_of slidesparse --quiet bench prefill --model qwen2.5-7b --dtype fp8 --patterns dense,6:8 --m 65536 --runs 2 \
    --memory-limit 22.4GiB --cache "$cache" | grep -v '^ran'
}
step_models() {
  "$run" tests --only 'engine_cuda_test'
  local options=(--model qwen2.5-7b --dtype fp8,int8 --patterns dense,2:4,6:8 --cache "$cache")
  slidesparse --quiet tune "${options[@]}" --m 64,256,512,1024,4096,16384 | tail -n 2
  slidesparse --quiet bench prefill "${options[@]}" --m 1024,4096,16384 --json "$out/prefill.json" | grep -v '^ran'
  slidesparse --quiet bench decode "${options[@]}" --m 64,256,512 --steps 64 --runs 3 --json "$out/decode.json" | grep -v '^ran'
}

step_native() {
  "$run" tests --only gemm_cuda_test --filter '*Native*:-*Large*' | tail -n 3
  local options=(--model qwen2.5-7b --dtype fp8 --layout split)
  slidesparse --quiet bench gemm "${options[@]}" --patterns $patterns --m 1,16,64,128,1024,2048,4096,16384 --backend all \
    --min-seconds 0.1 --json "$out/native.json" | grep -E 'sum|layer|card'
  slidesparse --quiet tune "${options[@]}" --patterns $patterns --m 64,2048,16384 --cache "$out/native-tuning.json" | tail -n 2
  slidesparse --quiet bench prefill "${options[@]}" --patterns $patterns --m 16384 --cache "$out/native-tuning.json" \
    --json "$out/native-prefill.json"
  slidesparse --quiet bench decode "${options[@]}" --patterns $patterns --m 64 --steps 64 --runs 3 \
    --cache "$out/native-tuning.json" --json "$out/native-decode.json"
}
step_limited_decode() {
  local options=(--patterns dense,6:8 --memory-limit 22.4GiB --model qwen2.5-14b --dtype fp8 --steps 256 --runs 1)
  peak_of slidesparse --quiet bench decode "${options[@]}" --m 128 | grep -v '^ran'
  peak_of slidesparse --quiet bench decode "${options[@]}" --m 256 --kv-cache-dtype fp8 | grep -v '^ran'
}

step_shares() {
  local what
  for what in 'decode --m 64 --steps 3' 'prefill --m 16384'; do
    # shellcheck disable=SC2086
    LD_LIBRARY_PATH="$here/lib" ncu --csv --print-kernel-base function --metrics gpu__time_duration.sum --clock-control none "$here/bin/slidesparse" --quiet bench $what \
      --model qwen2.5-7b --dtype fp8 --patterns dense --runs 1 --cache "$cache" | { echo "== $what"; python3 tools/step_shares.py; }
  done
}

step_sweep() {
  # shellcheck disable=SC2086
  slidesparse plan mission ${SLIDESPARSE_MEASURE_PLAN:---native --no-convert} | tail -n +2 >"$out/plan.json"
  slidesparse sweep "$out/plan.json" --db "$out/results.db" --cache "$cache" --deadline "${SLIDESPARSE_MEASURE_DEADLINE:-9m}"
  slidesparse --quiet report "$out/results.db" --out "$out/report"
}

# Both dtypes at once: one converts on the processor while the other is evaluated on the card.
step_quality() {
  local model=${SLIDESPARSE_MEASURE_MODEL:?} work=$out/quality dtype method settings=(--setting 'none dense')
  mkdir -p "$work"
  [ -f "$work/first/slidesparse_report.json" ] || slidesparse --quiet convert "$model" "$work/first" --pattern 6:8/split --dtype int8 \
    --method sparsegpt --calibration "${SLIDESPARSE_MEASURE_CALIBRATION:?}" --statistics "$work/statistics" || return
  for method in sparsegpt wanda magnitude; do
    for pattern in 14:16 8:10 6:8 4:6 2:4 14:16/split 8:10/split 6:8/split 4:6/split; do
      settings+=(--setting "$method $pattern")
    done
  done
  for dtype in fp8 int8; do
    timeout -s INT "${SLIDESPARSE_MEASURE_SECONDS:-3600}" \
      "$run" slidesparse --quiet --threads $((($(nproc) + 1) / 2)) pareto "$model" --work "$work/$dtype" --dtype "$dtype" --statistics "$work/statistics" \
      --text "${SLIDESPARSE_MEASURE_TEXT:?}" --hellaswag "${SLIDESPARSE_MEASURE_HELLASWAG:?}" --device cuda "${settings[@]}" \
      --json "$out/quality-$dtype.json" >"$out/quality-$dtype.txt" 2>&1 &
  done
  wait
  cat "$out"/quality-{fp8,int8}.txt
}
step_general() {
  local options=(--model qwen2.5-7b --dtype fp8 --patterns dense,2:4,4:6,6:8,8:10,14:16 --min-seconds 0.1 --backend all) layout
  for layout in slide split; do
    slidesparse --quiet bench gemm "${options[@]}" --layout $layout --m 64 --json "$out/general-$layout-64.json" | grep -E 'sum|card'
    slidesparse --quiet bench gemm "${options[@]}" --layout $layout --m 16384 --burst --json "$out/general-$layout-16384.json" |
      grep -E 'sum|card'
  done
}

for step in "$@"; do
  [ "$(type -t "step_$step")" = function ] || { echo "error: $step: no such step" >&2; exit 2; }
  echo "==== $step"
  start=$SECONDS
  "step_$step" 2>&1
  echo "==== $step: exit $?, $((SECONDS - start)) s"
done
