#!/usr/bin/env bash
# Installs what is missing: Debian packages (tools/packages.txt); into build/venv, where nvcc is, the headers of
# tools/requirements-cuda.txt and, with --python, the packages of tools/requirements.txt. Safe to repeat; does nothing when
# everything is there.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=$(grep -v '^#' tools/packages.txt)
missing=()
for package in $wanted; do
  status=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
  [ "$status" = "install ok installed" ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing ${#missing[@]} Debian packages: ${missing[*]}"
  sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "error: not root and no sudo; install these packages first: ${missing[*]}" >&2; exit 1; }
    sudo=(sudo)
  fi
  export DEBIAN_FRONTEND=noninteractive
  "${sudo[@]}" apt-get update -q >/dev/null
  "${sudo[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
fi

install_python() {
  local list=$1 stamp=build/venv/$(basename "$1" .txt).installed
  cmp -s "$list" "$stamp" && return
  echo "installing Python packages into build/venv ($list)"
  mkdir -p build
  [ -x build/venv/bin/python ] || python3 -m venv build/venv
  build/venv/bin/python -m pip install -q --disable-pip-version-check --no-deps -r "$list"
  cp "$list" "$stamp"
}
if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then install_python tools/requirements-cuda.txt; fi
if [ "${1:-}" = "--python" ]; then install_python tools/requirements.txt; fi
