#!/usr/bin/env bash
# Installs what is missing: Debian packages (tools/packages.txt); into build/venv, where nvcc is, the headers of
# tools/requirements-cuda.txt and requirements-cudnn.txt and, with --python, the packages of tools/requirements.txt. Safe to repeat; does nothing when
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
# Headers alone, out of packages whose libraries are half a gigabyte; cuDNN itself is opened at run time where it is there.
install_headers() {
  local list=$1 to=build/venv/$2 work
  cmp -s "$list" "$to/installed" && return
  echo "installing headers into $to ($list)"
  work=$(mktemp -d)
  build/venv/bin/python -m pip download -q --disable-pip-version-check --no-deps -d "$work" -r "$list"
  rm -rf "$to"
  mkdir -p "$to"
  build/venv/bin/python - "$work" "$to" <<'PYTHON'
import pathlib, sys, zipfile
for wheel in pathlib.Path(sys.argv[1]).glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(sys.argv[2], [name for name in archive.namelist() if "include/" in name])
PYTHON
  rm -rf "$work"
  cp "$list" "$to/installed"
}
if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
  install_python tools/requirements-cuda.txt
  install_headers tools/requirements-cudnn.txt cudnn
fi
if [ "${1:-}" = "--python" ]; then install_python tools/requirements.txt; fi
