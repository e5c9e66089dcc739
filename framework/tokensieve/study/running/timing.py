"""The time of a prefill."""

from __future__ import annotations

import time
from typing import Any

import torch


class PrefillTimer:
    """Measures a prefill: from entering the context to the end of the first forward pass.

    `generate` encodes images before it calls the model, and continues after the first pass.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.ms = 0.0

    def __enter__(self) -> PrefillTimer:
        self._hook = self._model.register_forward_hook(self._on_first_forward)
        self._start = synchronized_time(self._model)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _on_first_forward(self, *_: object) -> None:
        if not self.ms:
            self.ms = 1000 * (synchronized_time(self._model) - self._start)


def synchronized_time(model: Any) -> float:
    """Return the time in seconds, after the model's device has finished its work."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()
