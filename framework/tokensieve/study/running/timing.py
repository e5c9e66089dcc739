"""The time of a prefill."""

from __future__ import annotations

import time
from typing import Any

import torch


class PrefillTimer:
    """Measures a prefill: from here to the end of the first forward pass.

    `generate` encodes pictures before it calls the model, and goes on after it.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.ms = 0.0

    def __enter__(self) -> PrefillTimer:
        self._hook = self._model.register_forward_hook(self._first)
        self._start = synchronized_time(self._model)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _first(self, *_: object) -> None:
        if not self.ms:
            self.ms = 1000 * (synchronized_time(self._model) - self._start)


def synchronized_time(model: Any) -> float:
    """Return the time in seconds, once the model's device has done what it was asked."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()
