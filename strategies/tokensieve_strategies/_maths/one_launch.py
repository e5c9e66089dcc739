"""Whether the greedy loops run in one launch each, as Triton kernels.

They do if the environment variable `TOKENSIEVE_TRITON` is 1, and by default they do not: no GPU has
run these kernels yet. With it, they do on CUDA devices, and on the CPU if `TRITON_INTERPRET` was 1
when triton was imported, which is slow and for tests. Everywhere else torch's operators run: on other
devices, for groups too large for one program, and without triton, which comes with torch's wheels for
CUDA on Linux.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

LARGEST = 2**14
"""The largest number of tokens of a row that one program keeps in registers: 32 a thread."""


def kernels_for(n: int, device: torch.device) -> ModuleType | None:
    """Return the module with the kernels if rows of n tokens on this device are to be ranked by them.

    Warns:
        RuntimeWarning: once, if they were asked for and triton is not installed.
    """
    if os.environ.get("TOKENSIEVE_TRITON", "0") in ("", "0") or n > LARGEST:
        return None
    kernels = _kernels()
    here = kernels is not None and (device.type == "cuda" or (device.type == "cpu" and kernels.INTERPRETED))
    return kernels if here else None


@cache
def _kernels() -> ModuleType | None:
    if find_spec("triton") is None:
        warnings.warn(
            "TOKENSIEVE_TRITON is set, but triton is not installed: torch's operators run", RuntimeWarning, stacklevel=2
        )
        return None
    return import_module("tokensieve_strategies._maths.kernels")
