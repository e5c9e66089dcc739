"""The time of a prefill."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from tokensieve.engine.stopwatch import Stopwatch


class PrefillTimer:
    """Measures a prefill: from entering the context to the end of the first forward pass, as `tokensieve bench` does.

    `generate` encodes images before it calls the model, and continues after the first pass.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._span: Callable[[], float] | None = None

    def __enter__(self) -> PrefillTimer:
        self._hook = self._model.register_forward_hook(self._on_first_forward)
        self._clock = Stopwatch(self._model.device)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _on_first_forward(self, *_: object) -> None:
        if self._span is None:
            self._span = self._clock.stop()

    @property
    def ms(self) -> float:
        """Milliseconds; 0 if the model was not called."""
        return 0.0 if self._span is None else self._span()


def synchronized_time(model: Any) -> float:
    """Return the time in seconds, after the model's device has finished its work."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()
