"""Timing what a device computes, without making it wait."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


class Stopwatch:
    """Measures the time from its making to `stop`: by events on a GPU, by the clock on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[torch.cuda.Event] | None = [] if device.type == "cuda" else None
        self._started = self._now()

    def stop(self) -> Callable[[], float]:
        """Stop, and return what gives the milliseconds; on a GPU it waits until that is known."""
        events, elapsed = self._events, 1000 * (self._now() - self._started)
        if events is None:
            return lambda: elapsed

        def measured() -> float:
            started, ended = events[0], events[-1]
            ended.synchronize()
            return float(started.elapsed_time(ended))

        return measured

    def _now(self) -> float:
        if self._events is not None:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            self._events.append(event)
        return time.perf_counter()
