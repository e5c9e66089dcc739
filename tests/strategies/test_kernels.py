"""Triton kernels: results under Triton's interpreter in a process of its own, code for GPUs, and when they are used."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tokensieve_strategies._maths import one_launch
from tokensieve_strategies._maths.one_launch import LARGEST, kernels_for

HERE = Path(__file__).parent
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def run(script, device, *options, **environment):
    """Run tests of a file in a process of its own, and return what pytest says at the end."""
    # Not measured: kernels are interpreted line by line, which coverage makes thrice as slow.
    # Nor does it run a part of the tests only, as this process may.
    left = ("COVERAGE_PROCESS_CONFIG", "TOKENSIEVE_PART")
    inherited = {name: value for name, value in os.environ.items() if name not in left}
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            str(HERE / script),
            *options,
        ],
        cwd=HERE.parents[1],
        env={**inherited, "TOKENSIEVE_TRITON": "1", "TOKENSIEVE_TEST_DEVICE": device, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.splitlines()[-1]


def test_what_kernels_pick_in_the_interpreter():
    """Compared with loops in float64 and with the torch version."""
    pytest.importorskip("triton")
    said = run("through_kernels.py", "cpu", TRITON_INTERPRET="1")
    assert re.match(r"\d\d passed in ", said)


@pytest.mark.nightly
def test_what_kernels_pick_for_many_groups():
    pytest.importorskip("triton")
    said = run("through_kernels.py", "cpu", "-k", "every_pick", TRITON_INTERPRET="1", TOKENSIEVE_NIGHTLY="1")
    assert said.startswith("2 passed")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_kernels_pick_on_a_gpu():
    assert re.match(r"\d\d passed in ", run("through_kernels.py", "cuda", TRITON_INTERPRET="0"))


SIGNATURES = {
    "_greedy_map": {
        **dict.fromkeys(("similar", "gain", "rest"), "*fp32"),
        "places": "*i64",
        "pivots": "*fp32",
        **dict.fromkeys(("start", "stop", "n", "stride", "rows"), "i32"),
        "near": "fp32",
    },
    "_max_min": {
        **dict.fromkeys(("similar", "closest"), "*fp32"),
        "places": "*i64",
        "pivots": "*fp32",
        **dict.fromkeys(("start", "stop", "n", "rows"), "i32"),
        "close": "fp32",
    },
}


@pytest.mark.parametrize("name", SIGNATURES)
@pytest.mark.parametrize(
    ("capability", "n"),
    [(80, 576), *(pytest.param(c, n, marks=pytest.mark.nightly) for c in (80, 90, 100) for n in (1, 2880, LARGEST))],
)
def test_a_kernel_can_be_compiled_for_a_gpu(name, capability, n, tmp_path, monkeypatch):
    """What the interpreter takes, the compiler may refuse. Nothing runs."""
    triton = pytest.importorskip("triton")
    from tokensieve_strategies._maths import kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    shape = kernels._shape(n)
    warps = shape.pop("num_warps")
    constants = shape | ({"n": 1} if n == 1 else {})
    source = triton.compiler.ASTSource(
        getattr(kernels, name),
        signature=SIGNATURES[name] | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
    )
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": warps})
    assert compiled.asm["cubin"]
    # More than that of its row no thread can keep in registers.
    assert shape["BLOCK"] <= 32 * (warps * 32)


@pytest.fixture
def switched_on(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TOKENSIEVE_TRITON", "1")


@pytest.mark.parametrize("value", [None, "", "0"])
def test_kernels_are_off_unless_they_are_asked_for(value, monkeypatch):
    monkeypatch.delenv("TOKENSIEVE_TRITON", raising=False)
    if value is not None:
        monkeypatch.setenv("TOKENSIEVE_TRITON", value)
    assert kernels_for(576, CUDA) is None


def test_kernels_are_for_gpus_and_for_groups_that_fit(switched_on):
    assert kernels_for(LARGEST, CUDA).__name__.endswith("kernels")
    assert kernels_for(LARGEST + 1, CUDA) is None
    assert kernels_for(576, torch.device("meta")) is None
    # This process does not interpret.
    assert kernels_for(576, CPU) is None


def test_without_triton_torch_runs_and_it_is_said_once(monkeypatch):
    monkeypatch.setenv("TOKENSIEVE_TRITON", "1")
    monkeypatch.setattr(one_launch, "find_spec", lambda _: None)
    one_launch._kernels.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="triton is not installed"):
            assert kernels_for(576, CUDA) is None
        assert kernels_for(576, CUDA) is None
    finally:
        one_launch._kernels.cache_clear()
