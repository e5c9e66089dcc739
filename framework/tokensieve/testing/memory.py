"""The peak memory of a computation on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak(compute: Callable[[], object]) -> int:
    """Return the peak of the bytes that tensors took while `compute` ran, without those allocated before.

    The bytes are those of torch's allocator, whose allocations and releases the profiler reports. They include results
    and temporaries of operations, and exclude the interpreter and other processes.
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
