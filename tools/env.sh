#!/usr/bin/env bash
# tools/env.sh FOLDER PYTHON: make sure that the virtual environment FOLDER holds tokensieve, editable, with
# its dev extra. Where FOLDER does not exist, PYTHON makes it. Called by the Makefile before every target.
#
# A stamp inside the environment holds this checkout's folder and a checksum of pyproject.toml, and of the file that
# PIP_CONSTRAINT names, if it does. While it agrees, nothing is installed; a changed file, or another checkout's
# install, does it again. pip reads PIP_CONSTRAINT by itself: that is how CI pins the oldest transformers.
# Everything that can stop an install is said in one line, before anything is downloaded.
set -euo pipefail

env=$1
python=$2
root=$(cd "$(dirname "$0")/.." && pwd)
stamp=$env/.tokensieve-installed
free_gb_needed=8  # torch's default wheels bring their GPU libraries along

fail() {
    printf 'tokensieve: %s\n' "$1" >&2
    exit 1
}

check_python() {
    command -v "$1" >/dev/null 2>&1 ||
        fail "there is no '$1'; install Python 3.11 or newer, or name one: make PYTHON=python3.12"
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "'$1' is $("$1" --version 2>&1), too old; install Python 3.11 or newer, or name one: make PYTHON=python3.12"
}

check_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "python3-venv is missing; install it (Debian, Ubuntu: apt install python3-venv), or activate a virtual environment first"
}

check_pip() {
    "$1" -m pip --version >/dev/null 2>&1 ||
        fail "there is no pip in $env; run '$1 -m ensurepip', or deactivate that environment to get one in .venv"
}

check_disk() {
    local free_kb
    free_kb=$(df -Pk "$1" | awk 'NR == 2 { print $4 }')
    [ "$free_kb" -ge $((free_gb_needed * 1024 * 1024)) ] ||
        fail "$((free_kb / 1024 / 1024)) GB free where $env goes, about $free_gb_needed GB needed (mostly torch); make room, or activate an environment that has torch"
}

has_torch() {
    "$1" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' 2>/dev/null
}

want="$root $(cksum <"$root/pyproject.toml")"
if [ -n "${PIP_CONSTRAINT:-}" ]; then
    # It may also be an address, or several files: then its text stands for it.
    want="$want $( (cat "$PIP_CONSTRAINT" 2>/dev/null || printf '%s' "$PIP_CONSTRAINT") | cksum)"
fi
if [ -x "$env/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
    exit 0
fi

if [ "$env" = "${VIRTUAL_ENV:-}" ]; then
    [ -x "$env/bin/python" ] || fail "VIRTUAL_ENV is set, but there is no $env/bin/python; deactivate it, or make it anew"
    check_python "$env/bin/python"
    check_pip "$env/bin/python"
    has_torch "$env/bin/python" || check_disk "$env"
elif ! [ -x "$env/bin/python" ] || ! "$env/bin/python" -m pip --version >/dev/null 2>&1; then
    check_python "$python"
    check_venv "$python"
    check_disk "$root"
    echo "tokensieve: making a virtual environment in $env"
    "$python" -m venv --clear "$env"
else
    check_python "$env/bin/python"
    has_torch "$env/bin/python" || check_disk "$env"
fi

echo "tokensieve: installing into $env (the first time about 6 GB and several minutes, mostly torch)"
quiet=()
[ -t 1 ] || quiet=(--quiet --progress-bar off)
"$env/bin/python" -m pip install --disable-pip-version-check ${quiet[@]+"${quiet[@]}"} --editable "$root[dev]"
printf '%s\n' "$want" >"$stamp"
