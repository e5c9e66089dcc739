#!/usr/bin/env bash
# tools/bridges.sh VENV: run the tests of the bridges whose partners cannot share the environment VENV.
#
# Each partner has an environment of its own in .bridges/, which finds what it does not hold itself, torch among it, in
# VENV: a .pth file names VENV's packages behind its own. So the partner's versions come first, and only these are
# installed. A stamp says for which pyproject.toml that was done.
set -euo pipefail

venv=$1
root=$(cd "$(dirname "$0")/.." && pwd)

behind() {
    "$1" -c 'import sysconfig; print("\n".join(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))))'
}

# make_env NAME: the environment .bridges/NAME, with the extra NAME of tokensieve.
make_env() {
    local env=$root/.bridges/$1 stamp want
    stamp=$env/.tokensieve-installed
    want="$venv $(cksum <"$root/pyproject.toml")"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
        echo "tokensieve: installing the extra '$1' into $env, over $venv"
        "$venv/bin/python" -m venv --clear "$env"
        behind "$venv/bin/python" >"$(behind "$env/bin/python" | head -1)/behind.pth"
        "$env/bin/python" -m pip install --disable-pip-version-check --quiet --progress-bar off --editable "$root[$1]"
        printf '%s\n' "$want" >"$stamp"
    fi
    echo "tokensieve: $env holds $(du -sh "$env" | cut -f1):"
    "$env/bin/python" -m pip list --disable-pip-version-check --format freeze --path "$(behind "$env/bin/python" | head -1)" |
        grep -v '^\(pip\|setuptools\)==' | paste -sd' ' | fold -s -w 120
}

make_env lmms
cd "$root"
OMP_NUM_THREADS=1 "$root/.bridges/lmms/bin/python" -m pytest -m bridge tests/bridges tests/docs/test_blocks.py
