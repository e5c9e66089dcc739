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

# run_in NAME REQUIREMENTS TESTS...: the environment .bridges/NAME with what is required beside tokensieve, and tests there.
run_in() {
    local env=$root/.bridges/$1 required=$2 stamp want words
    shift 2
    stamp=$env/.tokensieve-installed
    want="$venv $required $(cksum <"$root/pyproject.toml")"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
        echo "tokensieve: installing $required into $env, over $venv"
        "$venv/bin/python" -m venv --clear "$env"
        behind "$venv/bin/python" >"$(behind "$env/bin/python" | head -1)/behind.pth"
        read -ra words <<<"$required"
        "$env/bin/python" -m pip install --disable-pip-version-check --quiet --progress-bar off --editable "${words[@]}"
        printf '%s\n' "$want" >"$stamp"
    fi
    echo "tokensieve: $env holds $(du -sh "$env" | cut -f1):"
    "$env/bin/python" -m pip list --disable-pip-version-check --format freeze --path "$(behind "$env/bin/python" | head -1)" |
        grep -v '^\(pip\|setuptools\)==' | paste -sd' ' | fold -s -w 120
    OMP_NUM_THREADS=1 "$env/bin/python" -m pytest -m bridge "$@"
}

cd "$root"
run_in lmms '.[lmms]' tests/bridges/test_lmms.py tests/bridges/test_lmms_task.py tests/docs/test_blocks.py
run_in serving '. transformers[serving]' tests/bridges/test_serve.py
run_in mlflow '.[mlflow]' tests/bridges/test_mlflow.py
