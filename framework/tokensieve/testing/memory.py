"""How much memory a computation takes on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak(compute: Callable[[], object]) -> int:
    """Return the most bytes that tensors took at once while `compute` ran, beside those there were before.

    Counted by torch's own allocator, as its profiler reports every allocation and release: results and
    the temporaries of operations alike, and nothing of the interpreter or of other processes.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        compute()
    # Torch's own type stubs know neither the results nor their events.
    results: Any = profiled.profiler and profiled.profiler.kineto_results
    live = highest = 0
    for event in results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            highest = max(highest, live)
    return highest
