"""The peak memory of a computation."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak(compute: Callable[[], object]) -> int:
    """Return the peak of the bytes that tensors on the CPU took while `compute` ran, without those allocated before.

    The bytes are those of torch's allocator, whose allocations and releases the profiler reports. They include results
    and temporaries of operations, and exclude the interpreter and other processes.
    """
    # Otherwise the profiler logs every start and stop, if nobody set how much it says.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
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


def peak_on(device: torch.device, compute: Callable[[], object]) -> int:
    """Return the same for a computation on a device, from the counters of its allocator."""
    if device.type != "cuda":
        return peak(compute)
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    compute()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
